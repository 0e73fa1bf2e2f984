"""Find the number of classes for a backbone."""

from collections.abc import Callable
from typing import Any

import yaml
from jsonargparse import ArgumentParser, Namespace

from stn_lightning.cli.arguments import configs
from stn_lightning.datamodules.base import BaseDataModule
from stn_lightning.runs.shipped_configs import resolve_config

NAME = "num_classes"


def num_classes_of_data(
    options: Namespace, arguments: list[str], earlier: Callable[[], dict[str, Any]]
) -> int | None:
    """Return the data's number of classes for the backbone.

    Args:
        options: parsed options of the subcommand.
        arguments: command-line arguments that they were parsed from.
        earlier: reads the configuration of the run that may be resumed; {} if there is none.

    Returns:
        the earlier number if the data cannot be read; None if the backbone has no argument
        `num_classes`, files or options give it, or the data are not there yet.
    """
    backbone = options.get("model.init_args.backbone")
    if backbone is None or NAME not in backbone.get("init_args", {}) or _is_given(arguments):
        return None
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(BaseDataModule, "data")
    try:
        parsed = parser.parse_object({"data": options.data.as_dict()})
        return len(parser.instantiate_classes(parsed).data.class_names)
    except Exception:  # the training will prepare the data, and report what is missing
        backbone = earlier().get("model", {}).get("init_args", {}).get("backbone", {})
        number: int | None = backbone.get("init_args", {}).get(NAME)
        return number


def _is_given(arguments: list[str]) -> bool:
    if any(NAME in word for word in arguments if not word.startswith("--data")):
        return True
    files = map(resolve_config, configs(arguments))
    contents = (yaml.safe_load(file.read_text()) for file in files)
    return any(_has(content, ["model", "backbone", NAME]) for content in contents)


def _has(content: Any, keys: list[str]) -> bool:
    """Return True if nested mappings have the keys, ignoring `init_args`."""
    for key in keys:
        while isinstance(content, dict) and key not in content and "init_args" in content:
            content = content["init_args"]
        if not isinstance(content, dict) or key not in content:
            return False
        content = content[key]
    return True

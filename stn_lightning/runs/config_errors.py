"""One line out of what a parser says when a user got something wrong."""

import difflib
import importlib
import inspect
import re
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

if TYPE_CHECKING:
    # seconds, which commands without it need not wait
    from lightning.pytorch.cli import LightningArgumentParser

_NOISE = (
    "Does not validate",
    "Subtypes:",
    "Errors:",
    "Given value",
    "Expected a <class 'NoneType'>",
    "Expected a path but",
)


class _UniqueKeys(yaml.SafeLoader):
    """YAML in which a key given twice is an error; plain YAML lets the last one win."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            name = yaml.serialize(key)
            if name in seen:
                raise yaml.constructor.ConstructorError(
                    problem=f"key '{key.value}' is given twice", problem_mark=key.start_mark
                )
            seen.add(name)
        return super().construct_mapping(node, deep)


def check_yaml(path: Path) -> None:
    """Read a configuration file on its own, before it is merged with others.

    Raises:
        ValueError: names the file and the line where it is no YAML, or gives a key twice.
    """
    if not path.is_file():
        raise ValueError(f"--config {path}: there is no such file")
    try:
        yaml.load(path.read_text(), _UniqueKeys)
    except UnicodeDecodeError as problem:
        raise ValueError(f"{path}: byte {problem.start}: this is no text") from problem
    except yaml.MarkedYAMLError as problem:
        line = problem.problem_mark.line + 1 if problem.problem_mark else 1
        raise ValueError(f"{path}:{line}: {' '.join(str(problem.problem).split())}") from problem
    # a date that is none is a ValueError
    except (yaml.YAMLError, ValueError, RecursionError) as problem:
        raise ValueError(f"{path}: {' '.join(str(problem).split())}") from problem


def one_line(message: str, parser: "LightningArgumentParser | None" = None) -> str:
    """The path to the wrong value and what is wrong with it, with a "did you mean" where something
    is close.

    jsonargparse reports nested mistakes as an indented tree, with a branch for each type that a
    value might have had.
    """
    keys, leaves, class_path = [], [], None
    for line in message.splitlines():
        text = line.strip().removeprefix("- ")
        if match := re.match(r'Parser key "(.+?)":\s*(.*)', text):
            keys.append(match[1].replace(".init_args", ""))
            text = match[2]
        elif match := re.match(r"Problem with given class_path '(.+?)':\s*(.*)", text):
            class_path, text = match[1], match[2]
        text = (
            ""
            if text.startswith(_NOISE)
            else re.sub(r"an? (?:<class '(\w+)'>|typing.Literal)", r"\1", text).rstrip(". ")
        )
        if text and text not in leaves:
            leaves.append(text)
    if (given := re.search(r"Given value: (?!NestedArg)(.+)$", message, re.MULTILINE)) and any(
        "Expected" in leaf for leaf in leaves
    ):
        leaves.append(f"got {given[1]}")
    said = ", ".join(leaves)
    if match := re.match(r"the following arguments are required: (.+)", said):
        missing = re.sub(r"\w+\.", "", match[1])
        return f"no {missing} given; take them from a file, for example --config configs/quickstart.yaml"
    return (f"{'.'.join(keys)}: " if keys else "") + said + _hint(said, class_path, parser)


def _hint(said: str, class_path: str | None, parser: "LightningArgumentParser | None") -> str:
    """A near miss of an option, a class or a key."""
    if match := re.search(r"Option '([\w.]+)' is not accepted", said):
        return did_you_mean(match[1].split(".")[-1], _parameters(class_path))
    if match := re.search(r"module '([\w.]+)' has no attribute '(\w+)'", said):
        return did_you_mean(match[2], dir(importlib.import_module(match[1])))
    if parser and (
        match := re.search(
            r"(?:unrecognized arguments: --|does not accept option '|Key ')([\w.]+)", said
        )
    ):
        options = [
            option.removeprefix("--")
            for action in parser._actions
            for option in action.option_strings
        ]
        return did_you_mean(match[1], [*options, *{option.split(".")[0] for option in options}])
    return ""


def _parameters(class_path: str | None) -> list[str]:
    if class_path is None:
        return []
    module, _, name = class_path.rpartition(".")
    return list(inspect.signature(getattr(importlib.import_module(module), name)).parameters)


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """A "did you mean", where something known is near `word`; else nothing."""
    close = difflib.get_close_matches(word, list(known), 1)
    return f" - did you mean {close[0]}?" if close else ""

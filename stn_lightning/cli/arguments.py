"""Prepare command-line arguments for the parser."""

from pathlib import Path

from stn_lightning.runs.folder import RunFolder
from stn_lightning.runs.shipped_configs import resolve_config

CONFIG = ("-c", "--config")


def configs(arguments: list[str]) -> list[Path]:
    """Return the files given by --config, in order."""
    words = iter(arguments)
    files = []
    for word in words:
        if word in CONFIG:
            files.append(next(words, ""))
        elif word.startswith("--config="):
            files.append(word.partition("=")[2])
    return [Path(file) for file in files]


def locate_configs(arguments: list[str]) -> list[str]:
    """Replace missing paths after --config by the package's files."""
    located = []
    for before, word in zip(["", *arguments], arguments, strict=False):
        option, equals, value = word.partition("=")
        if before in CONFIG:
            located.append(str(resolve_config(Path(word))))
        elif option == "--config" and equals:
            located.append(f"--config={resolve_config(Path(value))}")
        else:
            located.append(word)
    return located


def complete_flags(arguments: list[str], flags: set[str]) -> list[str]:
    """Add `true` after flags that have no value."""
    completed = []
    for word, after in zip(arguments, [*arguments[1:], "--"], strict=True):
        completed.append(word)
        if word in flags and after.startswith("--"):
            completed.append("true")
    return completed


def add_config_of_run(arguments: list[str]) -> list[str]:
    """Add --config runs/NAME/config.yaml to --name NAME.

    Arguments with --config or --model are not changed.

    Raises:
        ValueError: there is no run of this name.
    """
    names = [word.partition("=")[2] for word in arguments if word.startswith("--name=")]
    if "--name" in arguments[:-1]:
        names.append(arguments[arguments.index("--name") + 1])
    own_model = any(word.partition("=")[0] == "--model" for word in arguments)
    if not names or configs(arguments) or own_model:
        return arguments
    config = RunFolder(names[-1]).config
    if not config.exists():
        raise ValueError(
            f"{config} does not exist, so there is no run of that name; give --config FILE"
        )
    return [arguments[0], "--config", str(config), *arguments[1:]]

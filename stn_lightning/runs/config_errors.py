"""Shorten errors of parsers and PyTorch to one line."""

import difflib
import importlib
import inspect
import re
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from stn_lightning.runs.shipped_configs import CONFIGS, shipped_configs

if TYPE_CHECKING:
    # takes seconds to import
    from lightning.pytorch.cli import LightningArgumentParser

_NOISE = (
    "Does not validate",
    "Subtypes:",
    "Errors:",
    "Given value",
    "Expected a <class 'NoneType'>",
    "Expected a path but",
    "Subclass types expect",
    "a class path (str)",
    "a dict with",
)
_OTHER_TYPE = ("Expected", "Not a valid subclass")
"""How lines begin that name a type which the value does not have."""


class _UniqueKeys(yaml.SafeLoader):
    """Read YAML; raise an error at a duplicate key."""

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
    """Check that a file is valid YAML without duplicate keys.

    Raises:
        ValueError: there is no such file, or it has a mistake; the message names the line.
    """
    if not path.is_file():
        raise ValueError(f"{path}: there is no such file{_existing_file(path)}")
    try:
        yaml.load(path.read_text(), _UniqueKeys)
    except UnicodeDecodeError as problem:
        raise ValueError(f"{path}: byte {problem.start}: this is not UTF-8 text") from problem
    except yaml.MarkedYAMLError as problem:
        line = problem.problem_mark.line + 1 if problem.problem_mark else 1
        raise ValueError(f"{path}:{line}: {' '.join(str(problem.problem).split())}") from problem
    # an impossible date is a ValueError
    except (yaml.YAMLError, ValueError, RecursionError) as problem:
        raise ValueError(f"{path}: {' '.join(str(problem).split())}") from problem


def _existing_file(path: Path) -> str:
    """Suggest a YAML file beside a missing one."""
    shipped = shipped_configs() if path.parts[:1] == (CONFIGS.name,) else []
    files = {*path.parent.glob("*.y*ml"), *shipped}
    alike = difflib.get_close_matches(path.name, {file.name for file in files})
    return did_you_mean(str(path), [str(file) for file in sorted(files) if file.name in alike])


def needs_option(word: str) -> str:
    """Suggest --config before the name of a file."""
    file = word.endswith((".yaml", ".yml")) or Path(word).is_file()
    return f"; a file is given by --config: --config {word}" if file else ""


def read_mapping(path: Path) -> dict[str, Any]:
    """Read a YAML file of keys and values.

    Raises:
        ValueError: it has a mistake; the message names the file and the first one.
    """
    check_yaml(path)
    content = yaml.safe_load(path.read_text()) or {}
    if not isinstance(content, dict):
        raise ValueError(f"{path}: this is a {type(content).__name__}; give keys and values")
    return content


def text_of(problem: Exception) -> str:
    """Return an error's message without system numbers."""
    if isinstance(problem, OSError) and problem.strerror and problem.filename:
        return f"{problem.filename}: {problem.strerror}"
    return str(problem)


def one_line(message: str, parser: "LightningArgumentParser | None" = None) -> str:
    """Shorten an error message to one line with a suggestion.

    jsonargparse reports a mistake as an indented tree with a branch for each type that a value may
    have. The result names the key of the wrong value and the mistake.
    """
    if message.startswith("Error(s) in loading state_dict"):
        return _misfit(message)
    if " - did you mean " in message:  # already shortened
        return message
    keys: list[str] = []
    leaves: list[str] = []
    named: set[tuple[str, int]] = set()
    class_path = None
    for line in message.splitlines():
        text = line.strip().removeprefix("- ")
        if match := re.match(r'Parser key "(.+?)":\s*(.*)', text):
            key, indent = match[1].replace(".init_args", ""), len(line) - len(line.lstrip())
            # a parameter that may have several types is named once for each
            if (key, indent) not in named:
                named.add((key, indent))
                keys.append(key)
            text = match[2]
        elif match := re.match(r"Problem with given class_path '(.+?)':\s*(.*)", text):
            class_path, text = match[1], match[2]
        elif match := re.search(r"(Option .*)\. Got value: Namespace\(class_path='(.+?)'", text):
            text, class_path = match[1], match[2]
        text = "" if text.startswith(_NOISE) else _plain(text)
        if text and text not in leaves:
            leaves.append(text)
    given = re.search(r"Given value: (?!NestedArg)(.+)$", message, re.MULTILINE)
    if given and any(leaf.startswith(_OTHER_TYPE) for leaf in leaves):
        leaves = _without_other_types(leaves, given[1])
    found = ", ".join(leaves)
    if match := re.match(r"the following arguments are required: (.+)", found):
        missing = re.sub(r"\w+\.", "", match[1])
        return (
            f"no {missing} given; take them from a file, "
            "for example --config configs/quickstart.yaml"
        )
    return (f"{'.'.join(keys)}: " if keys else "") + found + _hint(found, class_path, parser)


def _without_other_types(leaves: list[str], given: str) -> list[str]:
    """Keep the mistake inside a class, or name that class."""
    match = re.search(r"class_path'?(?:=|: )'(?:\w+\.)*(\w+)'", given)
    if match is None:
        return [*leaves, f"got {given}"]
    inside = [leaf for leaf in leaves if "Got value" in leaf or not leaf.startswith(_OTHER_TYPE)]
    return inside or [*leaves, f"got {match[1]}"]


def _plain(text: str) -> str:
    """Remove Python's notation for types from a line."""
    text = re.sub(r"an? (?:<class '(?:\w+\.)*(\w+)'>|typing.Literal)", r"\1", text)
    text = re.sub(r"Expected a dot import path string: (\w+)$", r"there is no class \1", text)
    return re.sub(r"^Type .* expects a function or a callable class: ", "", text).rstrip(". ")


def _misfit(message: str) -> str:
    """Summarise PyTorch's list of tensors that do not fit."""
    shapes = re.findall(r"size mismatch for (\S+): .*?Size\((.*?)\).*?Size\((.*?)\)", message)
    missing, unexpected = (
        re.findall(r'"(.+?)"', found[1])
        if (found := re.search(rf"{kind} key.*?: (.*)", message))
        else []
        for kind in ("Missing", "Unexpected")
    )
    parts = [
        *(f"{name} has the shape {theirs}, here {ours}" for name, theirs, ours in shapes[:1]),
        *(f"{name} is missing" for name in missing[:1]),
        *(f"{name} is not in the network" for name in unexpected[:1]),
    ]
    count = len(shapes) + len(missing) + len(unexpected)
    return (
        f"the checkpoint does not fit the network, in {count} tensors: {', '.join(parts)}; "
        "--init_weights FILE copies the tensors that fit"
    )


def _hint(found: str, class_path: str | None, parser: "LightningArgumentParser | None") -> str:
    """Suggest a similar option, class or key."""
    if match := re.search(r"Option '([\w.]+)' is not accepted", found):
        known = _parameters(class_path)
        return did_you_mean(match[1].split(".")[-1], known) or (
            f"; {str(class_path).rpartition('.')[2]} takes {', '.join(known)}" if known else ""
        )
    if match := re.search(r"unrecognized arguments: (?!-)(\S+)", found):
        return needs_option(match[1])
    if match := re.search(r"module '([\w.]+)' has no attribute '(\w+)'", found):
        return did_you_mean(match[2], dir(importlib.import_module(match[1])))
    if match := re.search(r"there is no class (\w+)", found):
        return did_you_mean(match[1], _class_names())
    pattern = r"(?:unrecognized arguments: (?=--)|does not accept option '|Key ')(-*)([\w.]+)"
    if parser and (match := re.search(pattern, found)):
        options = [
            option.removeprefix("--")
            for action in parser._actions
            for option in action.option_strings
        ]
        options += sorted({option.split(".")[0] for option in options})
        return did_you_mean(match[1] + match[2], [match[1] + option for option in options])
    return ""


def _class_names() -> list[str]:
    """Return public names of imported subpackages."""
    packages = [
        package
        for name, package in sys.modules.items()
        if re.fullmatch(r"stn_lightning\.\w+", name)
    ]
    return [name for package in packages for name in getattr(package, "__all__", [])]


def _parameters(class_path: str | None) -> list[str]:
    if class_path is None:
        return []
    module, _, name = class_path.rpartition(".")
    known = inspect.signature(getattr(importlib.import_module(module), name)).parameters.values()
    any_number = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return [each.name for each in known if each.name != "params" and each.kind not in any_number]


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Suggest the nearest known word, if there is one."""

    def likeness(name: str) -> tuple[float, bool]:  # of equally near ones the same first letter
        return difflib.SequenceMatcher(None, name, word).ratio(), name[0] == word[0]

    close = difflib.get_close_matches(word, list(known))
    return f" - did you mean {max(close, key=likeness)}?" if close else ""

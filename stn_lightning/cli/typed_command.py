"""Make command lines from typed functions and their docstrings.

    def status(*runs: str) -> int: ...             stn status RUN RUN
    def table(table: Path, *, jobs: int = 1): ...  stn table TABLE --jobs 1

A parameter before the `*` is a positional argument, one after it an option. `bool` becomes a flag,
a `Literal` a choice, a dataclass an option for each field. A sequence of paths becomes an option
that may be repeated (`--config A --config B`), any other sequence an option with several values
(`--seeds 0 1`). `fit_options` takes all arguments after `--`, `other_options` those that no other
parameter takes. A function whose only parameter is `arguments` parses them itself. Standard library
only.
"""

import argparse
import dataclasses
import inspect
import re
import sys
import types
import typing
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, NoReturn

from stn_lightning.runs.config_errors import did_you_mean, needs_option, text_of
from stn_lightning.runtime.exit_codes import USAGE
from stn_lightning.runtime.provenance import program_name

REST = ("fit_options", "other_options")


class Options(argparse.ArgumentParser):
    """Parse options; report a mistake in one line.

    Args:
        command: name of the command.
        description: text of the help.
        fit_options: whether the command takes options of `stn fit` after `--`.
    """

    def __init__(self, command: str, description: str, fit_options: bool) -> None:
        self.command, self.fit_options = command, fit_options
        super().__init__(f"stn {command}", description=description, allow_abbrev=False)

    def error(self, message: str) -> NoReturn:
        if unknown := re.search("unrecognized arguments: ([^ =]+)", message):
            message += self._hint(unknown[1])
        lists = f"{program_name()} {self.command} --help lists the options"
        print(f"{self.prog}: {message}; {lists}", file=sys.stderr)
        raise SystemExit(USAGE)

    def _hint(self, word: str) -> str:
        if not word.startswith("-"):
            return needs_option(word) if "--config" in self._option_string_actions else ""
        near = "" if "." in word else did_you_mean(word, self._option_string_actions)
        after = f"; options of stn fit come after --: stn {self.command} ... -- {word} ..."
        return near or (after if self.fit_options else "")


def call(function: Callable[..., int], arguments: Sequence[str]) -> int:
    """Call `function` with values from the command line.

    Returns:
        the function's exit code; 2 if it raises ValueError or OSError, whose message is printed.
    """
    parameters = _parameters(function)
    if list(parameters) == ["arguments"]:
        return function(list(arguments))
    text = inspect.getdoc(function) or ""
    description = re.split(r"\n\n(?:Args|Returns|Raises):", text)[0]
    options = Options(function.__name__, description, "fit_options" in parameters)
    values = {name: _add(options, p, text) for name, p in parameters.items() if name not in REST}
    given, rest = list(arguments), []
    if "fit_options" in parameters and "--" in given:
        at = given.index("--")
        given, rest = given[:at], given[at + 1 :]
    if "other_options" in parameters:
        chosen, rest = options.parse_known_args(given)
    else:
        chosen = options.parse_args(given)
    before: list[Any] = []
    named: dict[str, Any] = {name: rest for name in REST if name in parameters}
    for name, value in values.items():
        if parameters[name].kind is inspect.Parameter.VAR_POSITIONAL:
            before += value(chosen)
        elif parameters[name].kind is inspect.Parameter.KEYWORD_ONLY:
            named[name] = value(chosen)
        else:
            before.append(value(chosen))
    try:
        return function(*before, **named)
    except BrokenPipeError:  # nothing reads the output any more
        raise
    except (ValueError, OSError) as problem:
        print(f"{options.prog}: {text_of(problem)}", file=sys.stderr)
        return USAGE


def _parameters(function: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    """Return the parameters with resolved types."""
    types_of = typing.get_type_hints(function)
    parameters = inspect.signature(function).parameters
    return {name: p.replace(annotation=types_of[name]) for name, p in parameters.items()}


def _add(options: Any, parameter: inspect.Parameter, docstring: str) -> Callable[[Any], Any]:
    """Add a parameter's options; return a function for its value."""
    name, kind = parameter.name, _without_none(parameter.annotation)
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        group, text = options.add_argument_group(f"the {name}"), inspect.getdoc(kind) or ""
        fields = _parameters(kind).values()
        values = {
            field.name: _add(group, field.replace(kind=field.KEYWORD_ONLY), text)
            for field in fields
        }
        return lambda chosen: kind(**{name: value(chosen) for name, value in values.items()})
    default = None if parameter.default is parameter.empty else parameter.default
    text = _help(docstring, name)
    if parameter.kind is parameter.KEYWORD_ONLY:
        required = parameter.default is parameter.empty
        options.add_argument(
            f"--{name.replace('_', '-')}",
            default=default,
            required=required,
            help=text + _shown(default),
            **_option(kind, name),
        )
    else:
        several = parameter.kind is parameter.VAR_POSITIONAL
        required = parameter.default is parameter.empty and not several
        element = typing.get_args(kind)[0] if _is_sequence(kind) else kind
        count = "*" if several else "+" if _is_sequence(kind) else None if required else "?"
        given: dict[str, Any] = {} if required else {"default": [] if several else default}
        if typing.get_origin(element) is Literal:
            given["choices"] = typing.get_args(element)
        else:
            given |= {"type": element, "metavar": _metavar(name)}
        options.add_argument(name, nargs=count, help=text, **given)
    return lambda chosen: getattr(chosen, name)


def _option(kind: Any, name: str) -> dict[str, Any]:
    """Return argparse's settings for an option of this type."""
    if kind is bool:
        return {"action": "store_true"}
    if _is_sequence(kind):
        (element,) = typing.get_args(kind)
        if element is Path:
            return {"action": _Append, "type": Path, "metavar": "FILE"}
        return {"nargs": "+", **_option(element, name)}
    if typing.get_origin(kind) is Literal:
        return {"choices": typing.get_args(kind)}
    return {"type": kind, "metavar": {int: "N", Path: "PATH"}.get(kind, _metavar(name))}


class _Append(argparse.Action):
    """Append to a list that lacks the default's elements."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: Any = None) -> None:
        before = getattr(namespace, self.dest)
        setattr(namespace, self.dest, [*([] if before is self.default else before), values])


def _help(docstring: str, name: str) -> str:
    """Return the text on `name` in a docstring's `Args:`."""
    entry = re.search(rf"^    \*?{name}: (.*\n?(?:     .*\n?)*)", docstring, re.MULTILINE)
    return " ".join(entry[1].split()).replace("%", "%%") if entry else ""


def _shown(default: Any) -> str:
    """Return a default as text for the help."""
    if default is None or default is False or default == ():
        return ""
    words = default if isinstance(default, list | tuple) else [default]
    return f" (default: {' '.join(map(str, words))})"


def _metavar(name: str) -> str:
    return name.replace("_", "-").upper().removesuffix("S")


def _is_sequence(kind: Any) -> bool:
    return typing.get_origin(kind) in (list, Sequence)


def _without_none(kind: Any) -> Any:
    """Return the type X of `X | None`."""
    if typing.get_origin(kind) in (typing.Union, types.UnionType):
        (kind,) = (part for part in typing.get_args(kind) if part is not type(None))
    return kind

"""Resolve the settings of a command line of `stn fit`.

Runs are compared by their resolved configuration: 1e-3 and 0.001 are the same value, a class may be
given by its short name, and an option that is newer than a record has its default.
"""

import functools
from typing import TYPE_CHECKING, Any

from stn_lightning.runs.folder import differences
from stn_lightning.runs.record import RunRecord

if TYPE_CHECKING:
    from stn_lightning.cli.command import ParsedSettings


def settings_of(arguments: list[str]) -> dict[str, Any]:
    """Return the settings that arguments of `stn fit` give.

    Raises:
        ValueError: says in one line what is wrong with them.
    """
    return _resolved(tuple(arguments))


def describes(record: RunRecord, arguments: list[str]) -> bool:
    """Return whether a record is what arguments of `stn fit` lead to.

    Raises:
        ValueError: says in one line what is wrong with the arguments.
    """
    wanted = settings_of(arguments)
    if record.lengths:  # continued after its end: another schedule
        return False
    if record.epochs is None:  # tested before its training had come to an end
        return False
    if not any(differences(record.settings, wanted)):
        return True
    try:
        recorded = _parser(tuple(arguments)).reread(record.settings)
    except ValueError:  # from a version with other options
        return False
    return not any(differences(recorded, wanted))


@functools.cache
def _resolved(arguments: tuple[str, ...]) -> dict[str, Any]:
    return _parser(arguments).resolve(list(arguments))


_made: "list[ParsedSettings]" = []


def _parser(arguments: tuple[str, ...]) -> "ParsedSettings":
    """Return the parser, built once, from the first arguments."""
    if not _made:
        from stn_lightning.cli.command import ParsedSettings  # seconds
        from stn_lightning.cli.messages import quieten

        quieten()
        _made.append(ParsedSettings(["fit", *arguments]))
    return _made[0]

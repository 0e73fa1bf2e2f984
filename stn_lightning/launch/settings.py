"""Resolve the settings of a command line of `stn fit`.

Runs are compared by their resolved configuration. So 1e-3 equals 0.001, a class equals its short
name, and an option that is newer than a record equals its default.
"""

import functools
from typing import TYPE_CHECKING, Any

from stn_lightning.runs.folder import differences
from stn_lightning.runs.record import RunRecord

if TYPE_CHECKING:
    from stn_lightning.cli.parsing import ParsedSettings


def settings_of(arguments: list[str]) -> dict[str, Any]:
    """Return the settings that arguments of `stn fit` give.

    Raises:
        ValueError: the arguments are wrong; the message says in one line why.
    """
    return _resolved(tuple(arguments))


def describes(record: RunRecord, arguments: list[str]) -> bool:
    """Return whether a record belongs to arguments of `stn fit`.

    Raises:
        ValueError: the arguments are wrong; the message says in one line why.
    """
    wanted = settings_of(arguments)
    if record.lengths:  # continued after its end, so its learning rates were others
        return False
    if record.epochs is None:  # tested before its training had come to an end
        return False
    limit = record.settings.get("trainer", {}).get("max_time")
    if limit is not None and limit != wanted["trainer"].get("max_time"):  # it may have cut it short
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
    """Return the parser, which is built once."""
    if not _made:
        from stn_lightning.cli.messages import quieten
        from stn_lightning.cli.parsing import ParsedSettings  # takes seconds to import

        quieten()
        _made.append(ParsedSettings(["fit", *arguments]))
    return _made[0]

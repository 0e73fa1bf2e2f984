"""The settings that a command line means, found by the parser of `stn fit` itself.

So a run is known by its resolved configuration: 1e-3 and 0.001 are one value, a class may be given
by its short name, and an option that did not exist when a run was recorded has its default.
"""

import functools
from typing import TYPE_CHECKING, Any

from stn_lightning.runs.folder import differences
from stn_lightning.runs.record import RunRecord

if TYPE_CHECKING:
    from stn_lightning.cli.command import ParsedSettings


def settings_of(arguments: list[str]) -> dict[str, Any]:
    """Return the settings that arguments of `stn fit` mean.

    Raises:
        ValueError: says in one line what is wrong with them.
    """
    return _resolved(tuple(arguments))


def describes(record: RunRecord, arguments: list[str]) -> bool:
    """Return True where a record is of the run that arguments of `stn fit` mean.

    Raises:
        ValueError: says in one line what is wrong with the arguments.
    """
    wanted = settings_of(arguments)
    if record.lengths:  # trained on after its end, which is another schedule
        return False
    if not any(differences(record.settings, wanted)):
        return True
    try:
        recorded = _parser(tuple(arguments)).reread(record.settings)
    except ValueError:  # of another version, which had other options
        return False
    return not any(differences(recorded, wanted))


@functools.cache
def _resolved(arguments: tuple[str, ...]) -> dict[str, Any]:
    return _parser(arguments).resolve(list(arguments))


_made: "list[ParsedSettings]" = []


def _parser(arguments: tuple[str, ...]) -> "ParsedSettings":
    """Return the one parser, which is made of the first arguments that are asked for."""
    if not _made:
        from stn_lightning.cli.command import ParsedSettings  # seconds
        from stn_lightning.cli.messages import quieten

        quieten()
        _made.append(ParsedSettings(["fit", *arguments]))
    return _made[0]

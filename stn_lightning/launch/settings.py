"""Resolve the settings of a command line of `stn fit`.

Runs are compared by their resolved configuration. So 1e-3 equals 0.001, a class equals its short
name, and an option that is newer than a record equals its default.
"""

import functools
from typing import TYPE_CHECKING, Any

from stn_lightning.runs.folder import RunFolder, differences
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
    if record.monitor is not None and record.checkpoint not in (None, "best.ckpt"):
        return False  # tested on a checkpoint that was given
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


def refuse_other_settings(run: RunFolder, arguments: list[str]) -> None:
    """Refuse arguments that differ from those of a run.

    `stn fit` refuses them too, but continues a run that shall only be longer, whose record then
    counts no more (see `describes`). A run without checkpoints starts over, so it may differ.

    Raises:
        ValueError: names the run, the first setting that differs, and both values.
    """
    if not run.config.exists() or not any(run.checkpoints.glob("*.ckpt")):
        return
    parser = _parser(tuple(arguments))
    wanted = parser.resolve(arguments)
    if parser.config.fit.resume == "never":
        return
    for key, old, new in differences(parser.settings_of_run(run), wanted):
        raise ValueError(
            f"{run.path} was started with {key} = {old}, now it is {new}; give it in another "
            f"--config file, which gives the runs other names, or move {run.path} away"
        )


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

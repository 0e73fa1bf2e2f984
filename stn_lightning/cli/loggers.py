"""Loggers that write into a run's folder."""

from typing import Any

from jsonargparse import Namespace

from stn_lightning.cli.trainer_options import listed
from stn_lightning.runs.folder import RunFolder


def fill_in_run(loggers: Any, run: RunFolder) -> None:
    """Write the run's folder and name into its loggers.

    Args:
        loggers: as configured: nothing, true or false, one or several.
        run: whose folder and name stand for RUN_FOLDER and RUN_NAME in their arguments.
    """
    for logger in listed(loggers):
        arguments = logger.get("init_args") if isinstance(logger, Namespace) else None
        for name, value in vars(arguments).items() if arguments else ():
            if isinstance(value, str):
                filled = value.replace("RUN_FOLDER", str(run.path)).replace("RUN_NAME", run.name)
                setattr(arguments, name, filled)

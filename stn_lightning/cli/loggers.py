"""Loggers that write into a run's folder."""

from typing import Any

from jsonargparse import Namespace

from stn_lightning.cli.trainer_options import listed
from stn_lightning.runs.folder import RunFolder


def fill_in_run(loggers: Any, run: RunFolder) -> None:
    """Replace RUN_FOLDER and RUN_NAME in arguments of loggers.

    Args:
        loggers: the Trainer's option `logger`: none, true or false, one logger or a list.
        run: folder of the run.
    """
    for logger in listed(loggers):
        arguments = logger.get("init_args") if isinstance(logger, Namespace) else None
        for name, value in vars(arguments).items() if arguments else ():
            if isinstance(value, str):
                filled = value.replace("RUN_FOLDER", str(run.path)).replace("RUN_NAME", run.name)
                setattr(arguments, name, filled)

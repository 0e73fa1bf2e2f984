"""Print lines, and hide most of Lightning's."""

import logging
import sys
import warnings
from pathlib import Path
from typing import Any

from lightning.pytorch.utilities import rank_zero_only

ASKED_FOR = ("callbacks", "profilers", "tuner")
"""Folders of Lightning whose lines a user requested, for example by a profiler."""

NOISE = (
    ".*does not have many workers.*",  # the data are in memory
    "Found .* in eval mode at the start of training",  # frozen parts
    ".*srun. command is available.*",  # `stn submit` uses it
    ".*LeafSpec.*is deprecated",  # lightning 2.6 uses an old function of torch 2.14
    ".*Checkpoint directory .* exists and is not empty.*",  # as it should when resuming
    "You requested to overfit but enabled .* shuffling",  # the data modules disable it themselves
    "Grad strides do not match bucket view strides",  # with one channel both are the same
    "You're using the WeightAveraging callback",  # our checkpoints support it, which is tested
)
"""Regular expressions of warnings to hide, and why."""


class _AskedFor(logging.Filter):
    """Show only warnings and requested lines of Lightning."""

    def filter(self, record: logging.LogRecord) -> bool:
        asked_for = Path(record.pathname).parent.name in ASKED_FOR
        return record.levelno > logging.INFO or asked_for


def quieten() -> None:
    """Hide Lightning's lines that apply to every run."""
    for name in ("lightning.pytorch", "lightning.fabric"):
        for handler in logging.getLogger(name).handlers:
            if not any(isinstance(each, _AskedFor) for each in handler.filters):
                handler.addFilter(_AskedFor())
    for message in NOISE:
        warnings.filterwarnings("ignore", message)


@rank_zero_only
def say(text: str, stream: Any = None) -> None:
    """Print a line on process 0."""
    print(text, file=stream or sys.stdout, flush=True)

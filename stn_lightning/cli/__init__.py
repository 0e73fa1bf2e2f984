"""The command line: configuration files in, a run folder out."""

from stn_lightning.cli.command import run
from stn_lightning.cli.prepare import prepare

__all__ = ["prepare", "run"]

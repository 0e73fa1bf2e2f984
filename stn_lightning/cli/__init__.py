"""The command line: configuration files in, a run folder out."""

from stn_lightning.cli.command import run

__all__ = ["run"]

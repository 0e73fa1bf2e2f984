"""Command-line parser of commands without Lightning."""

import argparse
import sys
from typing import NoReturn

from stn_lightning.runtime.provenance import program_name


class Options(argparse.ArgumentParser):
    """Parse options; report a mistake in one line."""

    def __init__(self, command: str, description: str) -> None:
        self.command = command
        super().__init__(f"stn {command}", description=description, allow_abbrev=False)

    def error(self, message: str) -> NoReturn:
        print(
            f"{self.prog}: {message}; {program_name()} {self.command} --help lists the options",
            file=sys.stderr,
        )
        raise SystemExit(2)

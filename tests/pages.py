"""Commands and files of the documents, so that tests can follow a page."""

import os
import re
import runpy
import shlex
import subprocess
import sys
from pathlib import Path
from unittest import mock

from stn_lightning.__main__ import main

REPOSITORY = Path(__file__).parents[1]
_FILE = re.compile(r"`([\w-]+\.(?:py|yaml))`[^\n]*:\n\n```\w+\n(.*?)```", re.DOTALL)
_COMMAND = re.compile(r"^    ((?:stn|\.venv/bin/\w+|make|python) .*?)(?: +#.*)?$", re.MULTILINE)


def write_files(page: Path, folder: Path) -> list[str]:
    """The files that a page shows, each below a line that names it, as they stand; their names."""
    found: dict[str, str] = dict(_FILE.findall(page.read_text()))
    for name, content in found.items():
        (folder / name).write_text(content)
    return list(found)


def commands(page: Path) -> list[str]:
    """Its indented lines that are commands, without the remarks behind them."""
    return _COMMAND.findall(page.read_text())


def words(command: str) -> list[str]:
    """A command as words. One of make is the line that make would run."""
    if command.startswith("make "):
        done = [
            part for file in (".installed", ".installed-dev") for part in ("-o", f".venv/{file}")
        ]
        said = subprocess.run(
            ["make", "--no-print-directory", "-n", *done, *shlex.split(command)[1:]],
            cwd=REPOSITORY,
            env=_without_outer_make(),
            check=True,
            capture_output=True,
            text=True,
        )
        command = said.stdout.strip()
    program, *arguments = shlex.split(command)
    return [Path(program).name, *arguments]


def _without_outer_make() -> dict[str, str]:
    """The environment without what the make that runs the tests hands on: its own variables, and
    those of its command line.
    """
    given = re.findall(r"(\w+)=", os.environ.get("MAKEFLAGS", ""))
    own = re.compile("|".join(["(GNU)?MAKE.*", "MFLAGS", *given])).fullmatch
    return {name: value for name, value in os.environ.items() if not own(name)}


def do(line: list[str]) -> int:
    """Run a command in this process, in the present folder; its exit code."""
    program, *arguments = line
    if program == "python":
        runpy.run_path(arguments[0], run_name="__main__")
        return 0
    assert program == "stn", f"{program} is not run here"
    with mock.patch.object(sys, "argv", ["stn", *arguments]):
        return main()

"""The commands of docs/reliability.md find the tests that they are there for."""

import re
import shlex
from pathlib import Path

import pytest

from tests.pages import REPOSITORY

PAGE = (REPOSITORY / "docs/reliability.md").read_text()
COMMANDS = re.findall(r"`P (tests[^`]*)`", PAGE)


def names_of_tests(paths: list[str]) -> list[str]:
    """The tests' names in files and folders."""
    files = [REPOSITORY / path for path in paths]
    sources = [
        file for path in files for file in ([path] if path.is_file() else path.rglob("*.py"))
    ]
    return [
        name for file in sources for name in re.findall(r"^def (test_\w+)", file.read_text(), re.M)
    ]


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_finds_tests_by_each_of_its_words(command: str) -> None:
    paths, _, words = command.partition(" -k ")
    for path in paths.split():
        assert Path(REPOSITORY / path).exists(), path
        assert names_of_tests([path]), f"{path} has no tests"
    for word in shlex.split(words)[0].split(" or ") if words else []:
        assert any(word in name for name in names_of_tests(paths.split())), word


def test_every_line_of_the_tables_has_a_command() -> None:
    lines = [
        line for line in PAGE.splitlines() if line.startswith("| ") and "guarantee |" not in line
    ]
    assert len(lines) > 30
    assert [line for line in lines if "`P tests" not in line] == []

"""What users are told to type is what they typed."""

import subprocess
import sys
from pathlib import Path

import pytest

import stn_lightning
from stn_lightning.runtime.provenance import program_name

MODULE = str(Path(stn_lightning.__file__).with_name("__main__.py"))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The present folder, with programs of its own that no shell finds by their names."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", "/nowhere")
    for name in ("stn", "python"):
        file = tmp_path / "my venv/bin" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch(0o755)
    (tmp_path / ".venv").symlink_to("my venv")
    monkeypatch.setattr(sys, "executable", str(tmp_path / ".venv/bin/python"))
    return tmp_path


@pytest.mark.parametrize(
    ("called", "typed"),
    [
        (".venv/bin/stn", ".venv/bin/stn"),
        ("{here}/.venv/bin/stn", ".venv/bin/stn"),
        ("my venv/bin/stn", "'my venv/bin/stn'"),
        ("/elsewhere/bin/stn", "/elsewhere/bin/stn"),
        (MODULE, ".venv/bin/python -m stn_lightning"),
        ("/somewhere/of/pytest/__main__.py", "stn"),
    ],
)
def test_a_program_is_called_as_it_was(
    called: str, typed: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", [called.format(here=folder)])
    assert program_name() == typed


@pytest.mark.parametrize(("called", "typed"), [("stn", "stn"), (MODULE, "python -m stn_lightning")])
def test_a_name_is_enough_where_the_shell_finds_this_program_by_it(
    called: str, typed: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(folder / ".venv/bin"))
    monkeypatch.setattr(sys, "argv", [str(folder / ".venv/bin/stn") if called == "stn" else called])
    assert program_name() == typed


def test_the_help_can_be_pasted() -> None:
    said = subprocess.run(
        [sys.executable, "-m", "stn_lightning", "--help"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    (line,) = (
        line.strip() for line in said.splitlines() if line.endswith("test --name quickstart")
    )
    pasted = subprocess.run(
        ["bash", "-c", line.partition(" test ")[0] + " --version"], capture_output=True, text=True
    )
    assert pasted.stdout.startswith("python ")

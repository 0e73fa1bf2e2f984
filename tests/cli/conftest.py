from collections.abc import Callable
from pathlib import Path

import pytest

from stn_lightning.cli.command import run

CONFIGS = Path(__file__).parents[2] / "configs"
Stn = Callable[..., tuple[int, str, str]]


@pytest.fixture
def stn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Stn:
    """The command, run in an empty folder: exit code, what it printed, and what it complained about."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("STN_DATA", raising=False)
    (tmp_path / "configs").symlink_to(CONFIGS)

    def call(*arguments: str) -> tuple[int, str, str]:
        capsys.readouterr()
        code = run(list(arguments))
        said = capsys.readouterr()
        return code, said.out, said.err

    return call

"""The shell asks the script that `stn completion` prints."""

import shutil
import subprocess
from pathlib import Path

import pytest

from stn_lightning.cli.completion import completion
from stn_lightning.cli.typed_command import call


def complete(script: str, folder: Path, *typed: str) -> set[str]:
    """What the script offers for the last word."""
    words = " ".join(f"'{word}'" for word in typed)
    ask = f"COMP_WORDS=({words}); COMP_CWORD={len(typed) - 1}; _stn"
    answer = subprocess.run(
        ["bash", "-c", f'{script}\n{ask}; printf "%s\\n" "${{COMPREPLY[@]}}"'],
        cwd=folder,
        check=True,
        capture_output=True,
        text=True,
    )
    return set(answer.stdout.split())


def test_bash_completes_commands_configuration_files_and_runs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(completion, ["bash"]) == 0
    script = capsys.readouterr().out
    (tmp_path / "mine.yaml").touch()
    (tmp_path / "mine.txt").touch()
    (tmp_path / "runs/minimal").mkdir(parents=True)
    assert complete(script, tmp_path, "stn", "t") == {"test", "tune", "table"}
    assert complete(script, tmp_path, "stn", "fit", "--config", "mi") == {"mine.yaml"}
    shipped = {"configs/quickstart.yaml", "configs/quickstart_cnn.yaml"}
    assert complete(script, tmp_path, "stn", "fit", "--config", "configs/quick") == shipped
    assert complete(script, tmp_path, "stn", "predict", "mini") == {"minimal"}


def test_the_script_for_zsh_is_one_that_zsh_reads(capsys: pytest.CaptureFixture[str]) -> None:
    assert call(completion, ["zsh"]) == 0
    script = capsys.readouterr().out
    assert script.startswith("autoload -Uz compinit bashcompinit")
    if (zsh := shutil.which("zsh")) is None:
        pytest.skip("no zsh on this machine")
    command = [zsh, "-f", "-c", script + "whence -w _stn"]
    answer = subprocess.run(command, capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "_stn: function"


def test_the_name_of_a_run_is_never_run_as_a_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(completion, ["bash"]) == 0
    (tmp_path / "runs/x$(touch seen)").mkdir(parents=True)
    complete(capsys.readouterr().out, tmp_path, "stn", "predict", "x")
    assert not list(tmp_path.rglob("seen"))

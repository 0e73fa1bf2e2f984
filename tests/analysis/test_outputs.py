"""Places where nothing can be written are refused in one line, before anything is computed."""

import os
from pathlib import Path

import pytest

from stn_lightning.analysis.export import export
from stn_lightning.analysis.outputs import require_writable_file, require_writable_folder
from stn_lightning.analysis.predict import predict
from stn_lightning.analysis.report import report
from stn_lightning.cli.typed_command import call


@pytest.mark.parametrize(
    ("command", "arguments"),
    [
        (predict, ["zoo:quickstart", "x.png", "--out", "file/a.csv"]),
        (predict, ["zoo:quickstart", "x.png", "--draw", "file/a"]),
        (export, ["zoo:quickstart", "--out", "file/a/b"]),
        (report, ["zoo:quickstart", "--out", "file/a.html"]),
        (report, ["zoo:quickstart", "--film", "file/a.webp"]),
        (report, ["zoo:quickstart", "--strip", "file/a.png"]),
    ],
)
def test_a_file_in_the_way_is_named(
    command: object,
    arguments: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("file").touch()
    assert call(command, arguments) == 2  # type: ignore[arg-type]
    option, path = arguments[-2:]
    expected = f"stn {command.__name__}: {option} {path}: file is no folder; give another path\n"  # type: ignore[attr-defined]
    assert capsys.readouterr().err == expected


def test_a_folder_is_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert call(report, ["zoo:quickstart", "--out", "."]) == 2
    assert capsys.readouterr().err == "stn report: --out .: this is a folder; give a file\n"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_one_may_not_write_into_is_named(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(ValueError, match=r"is not writable; give another path$"):
        require_writable_folder("--out", tmp_path / "new")
    tmp_path.chmod(0o700)


def test_a_device_is_no_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ValueError, match=r"--out .*pipe: this is a device or a pipe; give a file"):
        require_writable_file("--out", tmp_path / "pipe")

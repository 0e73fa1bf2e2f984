from pathlib import Path

import pytest

from stn_lightning.cli.prepare import SETS, prepare
from stn_lightning.cli.typed_command import call
from stn_lightning.datasets import MNIST
from tests.cub_miniature import write_cub
from tests.mnist_miniature import write_mnist


def test_a_set_that_is_there_is_checked_and_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("STN_DATA", raising=False)
    monkeypatch.chdir(tmp_path)
    write_mnist(tmp_path / "data/mnist", monkeypatch)
    assert call(prepare, ["mnist"]) == 0
    assert capsys.readouterr().out == "mnist: checked, train 160, val 40, test 200\n"


def test_all_that_is_wrong_is_said_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("STN_DATA", raising=False)
    monkeypatch.chdir(tmp_path)
    write_mnist(tmp_path / "data/mnist", monkeypatch)
    (tmp_path / "data/mnist/t10k-labels-idx1-ubyte.gz").write_bytes(b"something else")
    monkeypatch.setitem(SETS, "again", MNIST)  # lacks the same file
    assert call(prepare, ["mnsit", "mnist", "again"]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith(
        "stn prepare: there is no data set 'mnsit' - did you mean mnist?; there is mnist"
    )
    assert "t10k-labels-idx1-ubyte.gz: its SHA-256 is" in lines[1]
    assert len(lines) == 2


def test_all_images_that_cannot_be_read_are_named_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("STN_DATA", raising=False)
    monkeypatch.chdir(tmp_path)
    folder = write_cub(tmp_path / "data/cub")
    assert call(prepare, ["cub"]) == 0
    assert capsys.readouterr().out.startswith(
        "cub: checked, train 3, val 9, test 6; 3 classes; smallest side 256, "
        "cached in data/cache/cub-256; 18 boxes, 36 visible parts"
    )
    for name in ("001.Bird_1/Bird_1_0002.jpg", "003.Bird_3/Bird_3_0018.jpg"):
        (folder / "images" / name).write_bytes(b"no image")
    assert call(prepare, ["cub"]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert ["Bird_1_0002.jpg: " in lines[1], "Bird_3_0018.jpg: " in lines[2]] == [True, True]
    assert lines[0] == "stn prepare: 2 images cannot be read; restore them, or leave them out"

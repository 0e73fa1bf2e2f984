import os
import subprocess
import time
from pathlib import Path

import pytest

from stn_lightning.files import FORGOTTEN, MACHINE, sweep, temporary, whole


def test_a_file_is_replaced_only_when_everything_is_written(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"before")
    with whole(path) as file:
        file.write(b"after")
        assert path.read_bytes() == b"before"
    assert path.read_bytes() == b"after"
    assert list(tmp_path.iterdir()) == [path]


def test_an_error_while_writing_leaves_the_file_of_before(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"before")

    def fail() -> None:
        with whole(path) as file:
            file.write(b"half")
            raise RuntimeError("interrupted")

    with pytest.raises(RuntimeError, match="interrupted"):
        fail()
    assert path.read_bytes() == b"before"
    assert list(tmp_path.iterdir()) == [path]


def test_sweeping_removes_what_dead_processes_left_and_nothing_else(tmp_path: Path) -> None:
    dead = subprocess.Popen(["true"])
    dead.wait()
    left = tmp_path / f".last.ckpt.{MACHINE}.{dead.pid}.tmp"
    left_folder = tmp_path / f".images.{MACHINE}.{dead.pid}.tmp"
    forgotten = tmp_path / ".last.ckpt.another.1.tmp"
    mine, recent = temporary(tmp_path / "last.ckpt"), tmp_path / ".best.ckpt.another.1.tmp"
    foreign = tmp_path / ".editor.swap.tmp"
    for path in (left, forgotten, mine, recent, foreign):
        path.write_bytes(b"x")
    (left_folder / "inside").mkdir(parents=True)
    long_ago = time.time() - FORGOTTEN - 1
    for path in (forgotten, foreign):
        os.utime(path, (long_ago, long_ago))
    assert sorted(sweep(tmp_path)) == sorted([left, left_folder, forgotten])
    assert sorted(tmp_path.iterdir()) == sorted([mine, recent, foreign])

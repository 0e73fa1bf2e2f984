import errno
import fcntl
import os
import subprocess
import time
from pathlib import Path

import pytest

from stn_lightning.runtime.atomic_files import (
    FORGOTTEN,
    MACHINE,
    atomic_write,
    file_lock,
    remove_stale,
    temporary_path,
)
from tests.reliability.processes import SERVER, started


def test_a_file_is_replaced_only_when_everything_is_written(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"before")
    with atomic_write(path) as file:
        file.write(b"after")
        assert path.read_bytes() == b"before"
    assert path.read_bytes() == b"after"
    assert list(tmp_path.iterdir()) == [path]


def test_an_error_while_writing_leaves_the_file_of_before(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"before")

    def fail() -> None:
        with atomic_write(path) as file:
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
    mine, recent = temporary_path(tmp_path / "last.ckpt"), tmp_path / ".best.ckpt.another.1.tmp"
    foreign = tmp_path / ".editor.swap.tmp"
    for path in (left, forgotten, mine, recent, foreign):
        path.write_bytes(b"x")
    (left_folder / "inside").mkdir(parents=True)
    long_ago = time.time() - FORGOTTEN - 1
    for path in (forgotten, foreign):
        os.utime(path, (long_ago, long_ago))
    assert sorted(remove_stale(tmp_path)) == sorted([left, left_folder, forgotten])
    assert sorted(tmp_path.iterdir()) == sorted([mine, recent, foreign])


def test_what_a_killed_process_left_is_removed_before_its_parent_takes_note(tmp_path: Path) -> None:
    killed = subprocess.Popen(["sleep", "600"])
    left = tmp_path / f".last.ckpt.{MACHINE}.{killed.pid}.tmp"
    left.touch()
    assert remove_stale(tmp_path) == []
    killed.kill()
    os.waitid(
        os.P_PID, killed.pid, os.WEXITED | os.WNOWAIT
    )  # it has ended, and still has its entry
    assert remove_stale(tmp_path) == [left]
    killed.wait()


def count_alone(path: Path) -> None:
    """Read, wait, write: without a lock two processes would count as one."""
    for _ in range(5):
        with file_lock(path):
            number = int(path.read_text())
            time.sleep(0.005)
            path.write_text(str(number + 1))


def hold_until_killed(path: Path) -> None:
    with file_lock(path):
        path.with_name("held").touch()
        time.sleep(600)


def test_processes_that_make_the_same_file_do_so_one_after_the_other(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("0")
    processes = [SERVER.Process(target=count_alone, args=(path,)) for _ in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * 4
    assert path.read_text() == "20"
    assert [file.name for file in tmp_path.iterdir()] == ["file"]


def test_the_lock_of_a_killed_process_holds_nobody_up(tmp_path: Path) -> None:
    with started(hold_until_killed, tmp_path / "file", environment={}) as process:
        while not (tmp_path / "held").exists():
            time.sleep(0.005)
        process.kill()
    begin = time.monotonic()
    with file_lock(tmp_path / "file"):
        assert time.monotonic() - begin < 1


def test_where_there_are_no_locks_it_goes_on_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_locks(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    with file_lock(tmp_path / "file"):
        (tmp_path / "file").touch()
    assert list(tmp_path.iterdir()) == [tmp_path / "file"]

import errno
import fcntl
import json
import os
import stat
import time
from pathlib import Path

import pytest

from stn_lightning.runtime import locks
from stn_lightning.runtime.atomic_files import MACHINE
from stn_lightning.runtime.locks import FolderInUseError, claim, file_lock, lock_path
from tests.reliability.processes import SERVER, started, until


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
        until((tmp_path / "held").exists, lambda: "the lock was not taken")
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


def hold_claim(folder: Path) -> None:
    """With a child that outlives this process for a moment and has its open files."""
    with claim(folder):
        if os.fork() == 0:
            time.sleep(2)
            os._exit(0)
        folder.with_name("held").touch()
        time.sleep(600)


def wait_until_held(folder: Path) -> None:
    until(folder.with_name("held").exists, lambda: "the folder was not claimed")


def test_the_second_claim_of_a_folder_is_refused_by_process_machine_and_time(
    tmp_path: Path,
) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    with started(hold_claim, folder, environment={}) as process:
        wait_until_held(folder)
        begin = time.monotonic()
        message = (
            rf"run is in use by process {process.pid} on {MACHINE} since \d{{4}}-\d\d-\d\d "
            r"\d\d:\d\d:\d\d; wait for it, or stop it"
        )
        with pytest.raises(FolderInUseError, match=message), claim(folder):
            pass
        assert time.monotonic() - begin < 1
        folder.rename(tmp_path / "moved")  # as starting over does
        with pytest.raises(FolderInUseError), claim(folder):
            pass


def test_a_claim_whose_owner_was_killed_is_waited_for_while_a_child_of_its_holds_it(
    tmp_path: Path,
) -> None:
    folder = tmp_path / "run"
    with started(hold_claim, folder, environment={}) as process:
        wait_until_held(folder)
        process.kill()
        process.join()
        with claim(folder):
            assert json.loads(lock_path(folder).read_text())["process"] == os.getpid()
    assert not lock_path(folder).exists()


def test_an_earlier_start_of_the_same_job_on_another_machine_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setattr(locks, "LINGERING", 0.0)
    holder = {"machine": "elsewhere", "process": 1, "time": 0.0, "job": "7"}
    assert locks._is_gone(holder)
    assert not locks._is_gone({**holder, "job": "8"})
    assert not locks._is_gone({**holder, "job": None})
    assert not locks._is_gone({**holder, "machine": MACHINE, "process": os.getpid()})


def test_a_folder_can_be_claimed_again_and_where_there_are_no_locks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(2):
        with claim(tmp_path / "run"):
            assert lock_path(tmp_path / "run").exists()

    def no_locks(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    done = False
    with claim(tmp_path / "run"):
        done = True
    assert done
    assert not list(tmp_path.iterdir())


def test_a_lock_that_is_left_behind_can_be_taken_by_other_users(tmp_path: Path) -> None:
    with file_lock(tmp_path / "file"):
        assert stat.S_IMODE(lock_path(tmp_path / "file").stat().st_mode) == 0o666

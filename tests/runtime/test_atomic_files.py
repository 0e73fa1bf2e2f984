import json
import os
import subprocess
import time
from pathlib import Path

import pytest

from stn_lightning.runtime import atomic_files
from stn_lightning.runtime.atomic_files import (
    FORGOTTEN,
    MACHINE,
    atomic_write,
    only_informs,
    remove_stale,
    temporary_path,
)


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


def test_a_file_that_only_informs_is_reported_once_and_stops_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "a file"
    folder.touch()
    for _ in range(3):
        with only_informs(folder / "state.json"):
            (folder / "state.json").write_text("{}")
    for content in (b"{", b"\xff"):
        damaged = tmp_path / "damaged.json"
        damaged.write_bytes(content)
        with only_informs(damaged):
            json.loads(damaged.read_text())
    first, second = capsys.readouterr().err.splitlines()
    assert first.startswith(
        f"warning: {folder / 'state.json'}: Not a directory; training does not need this file"
    )
    assert second.startswith(f"warning: {damaged}: ")


def test_an_error_of_the_program_is_not_taken_for_one_of_the_file(tmp_path: Path) -> None:
    with pytest.raises(KeyError), only_informs(tmp_path / "state.json"):
        raise KeyError("epoch")


def test_a_link_is_followed(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/file").write_bytes(b"before")
    (tmp_path / "link").symlink_to("elsewhere/file")
    with atomic_write(tmp_path / "link") as file:
        file.write(b"after")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "elsewhere/file").read_bytes() == b"after"


@pytest.mark.parametrize(("number", "name"), [(4026531836, "host-a"), (17, "host-a-17")])
def test_containers_on_one_machine_have_different_names(
    number: int, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "pid").symlink_to(f"pid:[{number}]")
    monkeypatch.setattr(atomic_files, "_NAMESPACE", tmp_path / "pid")
    monkeypatch.setattr(atomic_files, "HOST", "host-a")
    assert atomic_files._machine() == name

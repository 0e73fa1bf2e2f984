"""Write files atomically: complete or not at all.

Standard library only.
"""

import contextlib
import os
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

HOST = os.uname().nodename.replace(".", "-")
_NAMESPACE = Path("/proc/self/ns/pid")
"""Containers on one machine have the same process numbers, but namespaces of their own."""
_FIRST_NAMESPACE = "4026531836"


def _machine() -> str:
    """Return the name of this machine, and of its container."""
    with contextlib.suppress(OSError):
        number = "".join(filter(str.isdigit, str(_NAMESPACE.readlink())))
        return HOST if number == _FIRST_NAMESPACE else f"{HOST}-{number}"
    return HOST


MACHINE = _machine()
FORGOTTEN = 3600.0
"""Age in seconds at which a temporary file of another machine is removed; no file takes so long to
write.
"""
_reported: set[Path] = set()


@contextlib.contextmanager
def atomic_write(path: Path) -> Iterator[IO[bytes]]:
    """Write a file that replaces `path` once it is complete.

    `path` is not changed before everything is on the disk, nor after an error. The temporary file
    is beside `path`, because a rename is atomic only within a file system. A link is followed.
    """
    path = path.resolve()
    partial = temporary_path(path)
    try:
        with partial.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
        sync_folder(path.parent)
    except OSError as problem:  # the error of a full disk has no file name
        problem.filename = problem.filename or str(path)
        raise
    finally:
        partial.unlink(missing_ok=True)


def temporary_path(path: Path) -> Path:
    """Return a hidden name beside `path`, with machine and process."""
    return path.with_name(f".{path.name}.{MACHINE}.{os.getpid()}.tmp")


def sync_folder(folder: Path) -> None:
    """Write a folder's entries to the disk, as after renaming."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove_stale(folder: Path) -> list[Path]:
    """Remove temporary files and folders of processes that were killed.

    Those of this machine are removed if their process has ended, those of other machines if they
    are older than `FORGOTTEN`.

    Returns:
        the paths that were removed.
    """
    removed = []
    for path in folder.glob(".*.tmp"):
        *_, machine, process, _ = path.name.split(".")
        if not process.isdigit():
            continue  # not made by `temporary_path`
        with contextlib.suppress(FileNotFoundError):  # its process has just finished
            ended = machine == MACHINE and not is_running(int(process))
            if ended or time.time() - path.stat().st_mtime > FORGOTTEN:
                shutil.rmtree(path) if path.is_dir() else path.unlink()
                removed.append(path)
    return removed


def is_running(process: int) -> bool:
    """Return True for a running process; False for a zombie."""
    try:
        os.kill(process, 0)
        stat = Path(f"/proc/{process}/stat")
        return not stat.exists() or stat.read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (ProcessLookupError, FileNotFoundError):
        return False
    except PermissionError:  # another user's process
        return True


@contextlib.contextmanager
def only_informs(path: Path) -> Iterator[None]:
    """Print errors about a file that training does not need.

    A damaged file, a folder that cannot be written or a full disk is reported once for each path.
    """
    try:
        yield
    except (OSError, ValueError) as problem:
        if path not in _reported:
            _reported.add(path)
            reason = getattr(problem, "strerror", None) or str(problem) or type(problem).__name__
            print(
                f"warning: {path}: {reason}; training does not need this file and continues",
                file=sys.stderr,
                flush=True,
            )

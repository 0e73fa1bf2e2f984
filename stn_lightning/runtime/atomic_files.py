"""Files that are complete or not there, come what may.

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

MACHINE = os.uname().nodename.replace(".", "-")
FORGOTTEN = 3600.0
"""Seconds after which a temporary file of another machine counts as left behind.

No file of ours takes that long to write.
"""
_reported: set[Path] = set()


@contextlib.contextmanager
def atomic_write(path: Path) -> Iterator[IO[bytes]]:
    """Write a file that replaces `path` once it is complete.

    Until everything is on the disk, and on an error, `path` is as it was. The temporary file lies
    beside `path`: a rename is atomic within a file system only.
    """
    partial = temporary_path(path)
    try:
        with partial.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
        sync_folder(path.parent)
    except OSError as problem:  # a full disk has no file's name
        problem.filename = problem.filename or str(path)
        raise
    finally:
        partial.unlink(missing_ok=True)


def temporary_path(path: Path) -> Path:
    """Return a name beside `path` with machine and process."""
    return path.with_name(f".{path.name}.{MACHINE}.{os.getpid()}.tmp")


def sync_folder(folder: Path) -> None:
    """Make a rename in `folder` survive a power failure."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove_stale(folder: Path) -> list[Path]:
    """Remove temporary files and folders that killed processes left.

    A process of this machine is looked up; what another machine left is removed when it is old.

    Returns:
        what was removed.
    """
    removed = []
    for path in folder.glob(".*.tmp"):
        *_, machine, process, _ = path.name.split(".")
        if not process.isdigit():
            continue  # not one of ours
        with contextlib.suppress(FileNotFoundError):  # its owner has just finished
            if (
                machine == MACHINE and not is_running(int(process))
            ) or time.time() - path.stat().st_mtime > FORGOTTEN:
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
    except PermissionError:  # someone else's
        return True


@contextlib.contextmanager
def only_informs(path: Path) -> Iterator[None]:
    """Report a fault of a file that only informs.

    It is reported once: a damaged file, an unwritable folder or a full disk stops no training.
    """
    try:
        yield
    except (OSError, ValueError) as problem:
        if path not in _reported:
            _reported.add(path)
            reason = getattr(problem, "strerror", None) or str(problem) or type(problem).__name__
            print(
                f"warning: {path}: {reason}; training does not need it and goes on",
                file=sys.stderr,
                flush=True,
            )

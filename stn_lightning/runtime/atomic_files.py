"""Files that are whole or not there at all, whatever happens to the process that writes them.

Nothing but the standard library is imported before a lock is taken.
"""

import contextlib
import errno
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING

if TYPE_CHECKING:
    from filelock import FileLock

MACHINE = os.uname().nodename.replace(".", "-")
FORGOTTEN = 3600.0
"""Seconds after which a temporary file of another machine counts as left behind; no file of ours
takes that long to write.
"""
NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)
"""Errors of a file system without locks."""


@contextlib.contextmanager
def atomic_write(path: Path) -> Iterator[IO[bytes]]:
    """A file that takes the place of `path` once everything is written and on the disk; until then,
    and on an error, `path` is as it was.

    The temporary file lies beside `path`: a rename is atomic within a file system only.
    """
    partial = temporary_path(path)
    try:
        with partial.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
        sync_folder(path.parent)
    finally:
        partial.unlink(missing_ok=True)


@contextlib.contextmanager
def file_lock(path: Path) -> Iterator[None]:
    """Keep other processes that make `path` waiting until this one is done.

    The lock ends with its owner, however that ends. It holds among the processes of a machine, and
    among machines on a file system that passes locks on (NFS does, unless it is mounted with
    `nolock`). Where it does not hold, processes do the same work at the same time, each in a
    temporary file of its own, and nothing else happens.
    """
    lock = _acquired(path, timeout=-1.0)
    try:
        yield
    finally:
        if lock is not None:
            Path(lock.lock_file).unlink(missing_ok=True)  # whoever waits notices, and makes it anew
            lock.release()


def _acquired(path: Path, timeout: float) -> "FileLock | None":
    """Return the lock of `path`; None where the file system has no locks."""
    from filelock import FileLock

    lock = FileLock(path.with_name(f".{path.name}.lock"), timeout, fallback_to_soft=False)
    try:
        lock.acquire()
    except OSError as problem:
        if problem.errno not in NO_LOCKS:
            raise
        Path(lock.lock_file).unlink(missing_ok=True)
        return None
    return lock


def temporary_path(path: Path) -> Path:
    """A name beside `path` that says whose it is, for `remove_stale`."""
    return path.with_name(f".{path.name}.{MACHINE}.{os.getpid()}.tmp")


def sync_folder(folder: Path) -> None:
    """See to it that a rename in `folder` survives a power failure."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove_stale(folder: Path) -> list[Path]:
    """Remove the temporary files and folders that killed processes left in `folder`, and say which.

    A process of this machine is asked for; what another machine left is removed when it is old.
    """
    swept = []
    for path in folder.glob(".*.tmp"):
        *_, machine, process, _ = path.name.split(".")
        if not process.isdigit():
            continue  # not one of ours
        with contextlib.suppress(FileNotFoundError):  # its owner has just finished
            if (
                machine == MACHINE and not is_running(int(process))
            ) or time.time() - path.stat().st_mtime > FORGOTTEN:
                shutil.rmtree(path) if path.is_dir() else path.unlink()
                swept.append(path)
    return swept


def is_running(process: int) -> bool:
    """Whether a process of this machine runs; one that was killed and not yet taken note of does
    not.
    """
    try:
        os.kill(process, 0)
        stat = Path(f"/proc/{process}/stat")
        return (
            not stat.exists() or stat.read_text().rpartition(")")[2].split()[0] not in "ZX"
        )  # killed, but not yet taken note of
    except ProcessLookupError:
        return False
    except PermissionError:  # someone else's
        return True

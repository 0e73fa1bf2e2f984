"""Locks on files and folders, which end with their process.

They work between processes of a machine, and between machines that share a file system with locks,
such as NFS if it is not mounted with `nolock`.
"""

import contextlib
import errno
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from filelock import FileLock

from stn_lightning.runtime.atomic_files import MACHINE, is_running

NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)
"""Errors of a file system without locks."""
LINGERING = 120.0
"""Seconds for which the lock of a process that has ended may persist; 90 on NFS."""


@contextlib.contextmanager
def file_lock(path: Path) -> Iterator[None]:
    """Wait for other processes that create `path`, and lock it.

    On a file system without locks it does nothing. Processes then do the same work at the same
    time, each in its own temporary file.
    """
    lock = _acquired(path, timeout=-1.0)
    try:
        yield
    finally:
        _release(lock)


class FolderInUseError(ValueError):
    """Another process uses the folder."""


@contextlib.contextmanager
def claim(folder: Path) -> Iterator[None]:
    """Lock a folder, or fail if another process has it.

    The lock file is beside the folder, so that the folder can be renamed. After a process was
    killed, its children or a network file system may hold the lock for some seconds. So if the
    owner was a process of this machine that has ended, or an earlier start of the same SLURM job,
    the lock is waited for. On a file system without locks it does nothing.

    Raises:
        FolderInUseError: another process uses the folder; the message says which, on which machine
            and since when.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    file, end = lock_path(folder), time.monotonic() + LINGERING
    while True:
        try:
            lock = _acquired(folder, timeout=0.2)
            break
        except TimeoutError:
            holder = _holder(file)
            if not _is_gone(holder) or time.monotonic() > end:
                raise FolderInUseError(_in_use(folder, holder)) from None
    if lock is not None:
        owner = {"machine": MACHINE, "process": os.getpid(), "time": time.time()}
        job = os.environ.get("SLURM_JOB_ID")
        with contextlib.suppress(OSError):  # the disk may be full
            file.write_text(json.dumps(owner | {"job": job}))
    try:
        yield
    finally:
        _release(lock)


def _holder(file: Path) -> dict[str, Any]:
    """Return the content of a lock, which its owner wrote."""
    try:
        return dict(json.loads(file.read_text()))
    except (OSError, ValueError, TypeError):
        return {}


def _is_gone(holder: dict[str, Any]) -> bool:
    """Return True if the owner of a lock has ended."""
    own_job = os.environ.get("SLURM_JOB_ID")
    if holder.get("machine") == MACHINE:
        return not is_running(int(holder["process"]))
    return own_job is not None and holder.get("job") == own_job


def _in_use(folder: Path, holder: dict[str, Any]) -> str:
    if not holder:
        return f"{folder} is in use by another process; wait for it, or stop it"
    since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(holder["time"]))
    return (
        f"{folder} is in use by process {holder['process']} on {holder['machine']} since {since}; "
        "wait for it, or stop it"
    )


def lock_path(path: Path) -> Path:
    """Return the file that is locked for `path`."""
    return path.with_name(f".{path.name}.lock")


def _release(lock: FileLock | None) -> None:
    if lock is not None:
        Path(lock.lock_file).unlink(missing_ok=True)  # waiting processes then create a new one
        lock.release()


def _acquired(path: Path, timeout: float) -> FileLock | None:
    """Return the lock of `path`; None without file locks."""
    # other users may lock it, too: a process that was killed leaves the file behind
    lock = FileLock(lock_path(path), timeout, mode=0o666, fallback_to_soft=False)
    try:
        lock.acquire()
    except OSError as problem:
        if problem.errno not in NO_LOCKS:
            raise
        Path(lock.lock_file).unlink(missing_ok=True)
        return None
    return lock

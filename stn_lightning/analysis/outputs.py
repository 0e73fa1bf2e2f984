"""Check early that outputs can be written."""

import os
from pathlib import Path


def require_writable_file(option: str, path: str | Path | None) -> None:
    """Check that a file can be written.

    Missing folders above it are made later.

    Args:
        option: option that gives the path, for the message.
        path: path of the file; None is accepted.

    Raises:
        ValueError: it is a folder or a device, or nothing can be written there.
    """
    if path is None:
        return
    if Path(path).is_dir():
        raise ValueError(f"{option} {path}: this is a folder; give a file")
    if Path(path).exists() and not Path(path).is_file():
        raise ValueError(f"{option} {path}: this is a device or a pipe; give a file")
    _require_writable(option, Path(path), Path(path).parent)


def require_writable_folder(option: str, path: str | Path | None) -> None:
    """Check that a folder can be written into.

    Args:
        option: option that gives the path, for the message.
        path: path of the folder, which may be missing; None is accepted.

    Raises:
        ValueError: nothing can be written there.
    """
    if path is not None:
        _require_writable(option, Path(path), Path(path))


def _require_writable(option: str, path: Path, folder: Path) -> None:
    existing = next(each for each in (folder, *folder.parents) if each.exists())
    if not existing.is_dir():
        raise ValueError(f"{option} {path}: {existing} is no folder; give another path")
    if not os.access(existing, os.W_OK):
        raise ValueError(f"{option} {path}: {existing} is not writable; give another path")

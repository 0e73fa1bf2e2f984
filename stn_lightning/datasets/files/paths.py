"""Paths of data sets, and names that stay inside."""

import os
from pathlib import Path, PurePosixPath


def data_root() -> Path:
    """Return the data folder: STN_DATA if set, else `data`.

    Raises:
        ValueError: STN_DATA is no folder.
    """
    named = os.environ.get("STN_DATA")
    if named and not Path(named).is_dir():
        raise ValueError(
            f"STN_DATA is {named}, which is no folder; make it, or let STN_DATA name the folder "
            "of the data sets"
        )
    return Path(named or "data")


def contained_path(name: str) -> str:
    """Check that a relative path stays inside, and shorten it.

    "./a" and ".//a" become "a".

    Args:
        name: a relative path with slashes or backslashes.

    Raises:
        ValueError: it is absolute, contains "..", or contains a control character.
    """
    path = PurePosixPath(name.replace("\\", "/"))
    leads_out = path.is_absolute() or ".." in path.parts
    has_drive = bool(path.parts) and path.parts[0].endswith(":")
    if leads_out or has_drive or not path.name or any(ord(c) < 32 or ord(c) == 127 for c in name):
        raise ValueError(f"{name[:80]!r} is no path inside the folder; give a relative path")
    return str(PurePosixPath(name))


def printable(path: str | os.PathLike[str]) -> str:
    """Return a path as text, with invalid bytes escaped."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")

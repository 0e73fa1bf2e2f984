"""Files from the network: whole and checked, or not at all."""

import hashlib
import http.client
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from stn_lightning.runtime.atomic_files import atomic_write, remove_stale
from stn_lightning.runtime.locks import file_lock


class File(NamedTuple):
    """A file that is known by its content."""

    name: str
    sha256: str | None
    """None where nobody has published it: the size is compared instead"""
    size: int | None = None
    """in bytes, where it is known: a server that sends more is not listened to for longer"""


def fetch(file: File, folder: Path, mirrors: Sequence[str]) -> None:
    """Make sure that `folder` holds `file`: check it if it is there, else download it from the
    first mirror that has it.

    The download goes into a temporary file, which takes its place once its content is right, so a
    stopped download leaves nothing.
    Several processes may ask for the same file: one downloads it and the others wait.

    Raises:
        ValueError: where the file in place is another one (it is left alone).
        OSError: where no mirror delivers, or the folder cannot be written.
    """
    path = folder / file.name
    if path.exists():  # asked first, and without a lock: the folder may be read-only
        return _check(file, path)
    folder.mkdir(parents=True, exist_ok=True)
    problems = []
    with file_lock(path):
        if path.exists():
            return _check(file, path)
        remove_stale(folder)
        for mirror in mirrors:
            try:
                return _download(file, mirror + file.name, path)
            except (OSError, http.client.HTTPException, ValueError) as problem:
                problems.append(f"{mirror}: {problem}")
    raise FileNotFoundError(
        f"{path} is missing and could not be downloaded ({'; '.join(problems)}); put it there by hand, or point STN_DATA at the data folder"
    )


def _check(file: File, path: Path) -> None:
    if file.sha256 is None:
        if path.stat().st_size != file.size:
            raise ValueError(
                f"{path}: it has {path.stat().st_size:,} bytes, expected {file.size:,}; delete it to have it downloaded again"
            )
    elif (found := sha256(path)) != file.sha256:
        raise ValueError(
            f"{path}: its SHA-256 is {found}, expected {file.sha256}; delete it to have it downloaded again"
        )


def _download(file: File, url: str, path: Path) -> None:
    digest, size = hashlib.sha256(), 0
    with urllib.request.urlopen(url, timeout=60) as response, atomic_write(path) as stream:
        while block := response.read(1 << 20):
            stream.write(block)
            digest.update(block)
            size += len(block)
            if file.size is not None and size > file.size:
                raise ValueError(f"it is larger than {file.size} bytes")
        if file.sha256 is None and size != file.size:
            raise ValueError(f"it has {size:,} bytes, expected {file.size:,}")
        if file.sha256 is not None and (found := digest.hexdigest()) != file.sha256:
            raise ValueError(f"its SHA-256 is {found}, expected {file.sha256}")


def sha256(path: Path) -> str:
    """Of the file's content, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

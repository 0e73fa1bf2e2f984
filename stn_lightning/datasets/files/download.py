"""Download files: complete and checked, or not at all."""

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
    """None if it is not published; then only the size is compared."""
    size: int
    """Size in bytes; no more are read from a server."""


def fetch(file: File, folder: Path, mirrors: Sequence[str]) -> None:
    """Check a file, or download it from the first mirror.

    The download goes into a temporary file, which takes its place once its content is right, so a
    stopped download leaves nothing. Of several processes one downloads and the others wait.

    Raises:
        ValueError: if the file in place is another one (it is left alone).
        OSError: if no mirror delivers, or the folder cannot be written.
    """
    path = folder / file.name
    if path.exists():  # asked first, and without a lock: the folder may be read-only
        return check_file(file, path)
    folder.mkdir(parents=True, exist_ok=True)
    problems = []
    with file_lock(path):
        if path.exists():
            return check_file(file, path)
        remove_stale(folder)
        for mirror in mirrors:
            try:
                return _download(file, mirror + file.name, path)
            except (OSError, http.client.HTTPException, ValueError) as problem:
                problems.append(f"{mirror}: {problem}")
    raise FileNotFoundError(
        f"{path} is missing and could not be downloaded ({'; '.join(problems)}); "
        "put it there by hand, or point STN_DATA at the data folder"
    )


def check_file(file: File, path: Path) -> None:
    """Compare a file with what it should be.

    Raises:
        ValueError: if its size or its checksum is another one.
    """
    found, cure = path.stat().st_size, "delete it to have it downloaded again"
    if file.sha256 is None and found != file.size:
        raise ValueError(f"{path}: it has {found:,} bytes, expected {file.size:,}; {cure}")
    if file.sha256 is not None and (digest := sha256(path)) != file.sha256:
        raise ValueError(f"{path}: its SHA-256 is {digest}, expected {file.sha256}; {cure}")


def _download(file: File, url: str, path: Path) -> None:
    digest, size = hashlib.sha256(), 0
    with urllib.request.urlopen(url, timeout=60) as response, atomic_write(path) as stream:
        if url.startswith("https:") and not response.url.startswith("https:"):
            raise ValueError(f"leads to {response.url}, which is not encrypted")
        if response.length is not None and response.length > file.size:
            raise ValueError(f"it is larger than {file.size} bytes")
        while block := response.read(min(1 << 20, file.size + 1 - size)):
            stream.write(block)
            digest.update(block)
            size += len(block)
            if size > file.size:
                raise ValueError(f"it is larger than {file.size} bytes")
        if file.sha256 is None and size != file.size:
            raise ValueError(f"it has {size:,} bytes, expected {file.size:,}")
        if file.sha256 is not None and (found := digest.hexdigest()) != file.sha256:
            raise ValueError(f"its SHA-256 is {found}, expected {file.sha256}")


def sha256(path: Path) -> str:
    """Return the checksum of a file's content, in hexadecimal.

    Raises:
        ValueError: if it is a folder or a pipe, whose other end might never write.
    """
    if path.exists() and not path.is_file():
        raise ValueError(f"{path}: this is no regular file; move it away")
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

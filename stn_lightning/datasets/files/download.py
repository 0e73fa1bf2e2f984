"""Download files and check them."""

import hashlib
import http.client
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from stn_lightning.runtime.atomic_files import atomic_write, remove_stale
from stn_lightning.runtime.locks import file_lock


class File(NamedTuple):
    """Name, checksum and size of a file to download."""

    name: str
    sha256: str | None
    """None if none is published; then only the size is compared."""
    size: int
    """in bytes; a download that is longer is stopped"""


def fetch(file: File, folder: Path, mirrors: Sequence[str]) -> None:
    """Check a file, or download it if it is missing.

    It is downloaded into a temporary file, which is renamed when its content has been checked. Of
    several processes one downloads while the others wait.

    Raises:
        ValueError: the existing file has another content. It is not changed.
        OSError: no mirror has the file, or the folder cannot be written.
    """
    path = folder / file.name
    if path.exists():  # without a lock, as the folder may be read-only
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
    """Compare a file with its checksum, or else its size.

    Raises:
        ValueError: they differ.
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
            raise ValueError(f"it redirects to {response.url}, which is not encrypted")
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
    """Return the SHA-256 checksum of a file, in hexadecimal.

    Raises:
        ValueError: it is no regular file. Reading a pipe might wait for ever.
    """
    if path.exists() and not path.is_file():
        raise ValueError(f"{path}: this is no regular file; move it away")
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

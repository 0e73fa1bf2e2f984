"""Files from the network: whole and checked, or not at all."""

import hashlib
import http.client
import tempfile
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple


class File(NamedTuple):
    """A file that is known by its content."""

    name: str
    sha256: str


def fetch(file: File, folder: Path, mirrors: Sequence[str]) -> None:
    """Make sure that `folder` holds `file`: check it if it is there, else download it from the first mirror that has it.

    The download goes into a temporary file, which takes its place once its content is right, so a stopped download leaves nothing.

    Raises:
        ValueError: where the file in place is another one (it is left alone).
        OSError: where no mirror delivers, or the folder cannot be written.
    """
    path = folder / file.name
    if path.exists():
        if (found := sha256(path)) != file.sha256:
            raise ValueError(f"{path}: its SHA-256 is {found}, expected {file.sha256}; delete it to have it downloaded again")
        return
    folder.mkdir(parents=True, exist_ok=True)
    problems = []
    for mirror in mirrors:
        with tempfile.NamedTemporaryFile(dir=folder, prefix=f".{file.name}.", delete=False) as stream:
            partial = Path(stream.name)
            try:
                with urllib.request.urlopen(mirror + file.name, timeout=60) as response:
                    while block := response.read(1 << 20):
                        stream.write(block)
                stream.flush()
                if (found := sha256(partial)) != file.sha256:
                    raise ValueError(f"its SHA-256 is {found}, expected {file.sha256}")
                partial.chmod(0o644)  # a temporary file is its owner's alone, data sets are shared
                partial.replace(path)
                return
            except (OSError, http.client.HTTPException, ValueError) as problem:
                problems.append(f"{mirror}: {problem}")
            finally:
                partial.unlink(missing_ok=True)
    raise FileNotFoundError(
        f"{path} is missing and could not be downloaded ({'; '.join(problems)}); put it there by hand, or point STN_DATA at the data folder"
    )


def sha256(path: Path) -> str:
    """Of the file's content, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

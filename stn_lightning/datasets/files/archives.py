"""Unpack archives: completely, within limits, inside their folder."""

import contextlib
import gzip
import math
import os
import shutil
import tarfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from stn_lightning.datasets.files.paths import contained_path
from stn_lightning.runtime.atomic_files import remove_stale, sync_folder, temporary_path
from stn_lightning.runtime.locks import file_lock

PADDING = 1 << 20
"""More bytes than tar adds at the end of an archive."""
HEADER = 1 << 20
"""Largest size of the headers of one file, in bytes; usually they have a few hundred."""
BLOCK = 1 << 16


def unpack(archive: Path, folder: Path, *, members: int, size: int, inside: str = ".") -> None:
    """Unpack a tar.gz archive, unless `folder` exists.

    It is unpacked into a temporary folder, which is renamed when it is complete. Of several
    processes one unpacks while the others wait. Only files and folders below `folder` are created;
    links, devices and absolute paths are refused.

    Args:
        archive: file to unpack; its checksum should have been checked.
        folder: folder to create.
        members: largest number of files and folders in the archive.
        size: largest total size of the files, in bytes; a small archive can unpack to a full disk.
        inside: folder of the archive that becomes `folder`; the rest of the archive is left out.

    Raises:
        ValueError: the archive is damaged or refused; the message names archive and member.
        OSError: the folder cannot be written.
    """
    if folder.is_dir():
        return
    folder.parent.mkdir(parents=True, exist_ok=True)
    with file_lock(folder):
        if folder.is_dir():
            return
        remove_stale(folder.parent)
        partial = temporary_path(folder)
        try:
            partial.mkdir()
            with _refusals(archive):
                _unpack_into(archive, partial, members, size)
                if not (partial / inside).is_dir():
                    raise ValueError(f"it holds no folder {inside}")
            os.sync()  # the content must be on the disk before the new name
            (partial / inside).rename(folder)
            sync_folder(folder.parent)
        finally:
            shutil.rmtree(partial, ignore_errors=True)


class _LimitedReader:
    """A stream that limits how much tarfile reads at once.

    tarfile reads headers into memory, and the archive itself says how long they are.
    """

    def __init__(self, stream: gzip.GzipFile) -> None:
        self.stream, self.allowance = stream, float(HEADER)

    def read(self, size: int) -> bytes:
        self.allowance -= size
        if self.allowance < 0:
            raise ValueError(f"a header of more than {HEADER:,} bytes")
        return self.stream.read(size)

    def seek(self, offset: int) -> int:
        return self.stream.seek(offset)

    def tell(self) -> int:
        return self.stream.tell()


def _unpack_into(archive: Path, folder: Path, members: int, size: int) -> None:
    with gzip.open(archive) as stream:
        reader = _LimitedReader(stream)
        tar = tarfile.open(fileobj=reader, mode="r:")  # type: ignore[call-overload]  # noqa: SIM115  # holds no file of its own
        while (member := tar.next()) is not None:
            tar.members.clear()  # tarfile would collect all headers in memory
            members -= 1
            size -= member.size
            if members < 0 or size < 0:
                kind = "files" if members < 0 else "bytes"
                raise ValueError(f"{member.name}: more {kind} than this archive should have")
            reader.allowance = math.inf
            _extract(tar, member, folder)
            reader.allowance = HEADER
        if len(stream.read(PADDING)) == PADDING:  # read to the end, where gzip has its checksum
            raise ValueError("has data after its end")


def _extract(tar: tarfile.TarFile, member: tarfile.TarInfo, folder: Path) -> None:
    if member.isdir() and PurePosixPath(member.name) == PurePosixPath("."):
        return
    path = folder / contained_path(member.name)
    if member.isdir():
        path.mkdir(parents=True, exist_ok=True)
        return
    source = tar.extractfile(member) if member.isreg() else None
    if source is None:
        raise ValueError(f"{member.name}: is neither a file nor a folder")
    if path.exists():
        raise ValueError(f"{member.name}: comes twice")
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("xb") as target:
        shutil.copyfileobj(source, target, BLOCK)


@contextlib.contextmanager
def _refusals(archive: Path) -> Iterator[None]:
    """Raise a ValueError of one line for a damaged archive."""
    try:
        yield
    except (
        ValueError,
        EOFError,
        RecursionError,
        tarfile.TarError,
        gzip.BadGzipFile,
        zlib.error,
        NotADirectoryError,
        FileExistsError,
    ) as problem:
        reason = str(problem).partition("\n")[0].rstrip(":")
        raise ValueError(
            f"{archive}: {reason}; delete it to have it downloaded again, or do not trust it"
        ) from problem

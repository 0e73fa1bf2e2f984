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
"""Bytes, more than tar rounds its archives up to."""
HEADER = 1 << 20
"""Bytes that the headers of one file may have; real ones have a few hundred."""
BLOCK = 1 << 16


def unpack(archive: Path, folder: Path, *, members: int, size: int, inside: str = ".") -> None:
    """Unpack a tar.gz archive, if that is not done.

    It is unpacked into a temporary folder, which takes its place once it is complete; a folder that
    is there is taken for complete. Of several processes one unpacks and the others wait. Only files
    and folders are made, and only below `folder`: links, devices and absolute names are refused.

    Args:
        archive: known by its checksum, if it comes from the network.
        folder: folder that it becomes.
        members: largest number of files and folders.
        size: largest number of bytes in all files: a small archive can hold a disk full of zeros.
        inside: folder of the archive that is wanted; what lies beside it is left out.

    Raises:
        ValueError: with the names of archive and member, if it is refused or damaged.
        OSError: if the folder cannot be written.
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
            os.sync()  # a rename that survives a power failure is of no use without the content
            (partial / inside).rename(folder)
            sync_folder(folder.parent)
        finally:
            shutil.rmtree(partial, ignore_errors=True)


class _LimitedReader:
    """A stream that limits what tarfile may read.

    It reads a header of any length into memory, and headers say their own length.
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
            tar.members.clear()  # else it keeps all headers in memory
            members -= 1
            size -= member.size
            if members < 0 or size < 0:
                kind = "files" if members < 0 else "bytes"
                raise ValueError(f"{member.name}: more {kind} than the archive should hold")
            reader.allowance = math.inf
            _extract(tar, member, folder)
            reader.allowance = HEADER
        if len(stream.read(PADDING)) == PADDING:  # to the end, where gzip keeps its checksum
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
    """Say in one line what is wrong with an archive."""
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

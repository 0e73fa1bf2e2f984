"""Archives from the network: unpacked whole, within limits, and nowhere else than where they
belong.
"""

import contextlib
import gzip
import lzma
import os
import shutil
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from stn_lightning.runtime.atomic_files import remove_stale, sync_folder, temporary_path
from stn_lightning.runtime.locks import file_lock

PADDING = 1 << 20
"""Bytes, more than tar rounds its archives up to."""


def unpack(archive: Path, folder: Path, *, members: int, size: int, inside: str = ".") -> None:
    """Make sure that `folder` holds what is in `archive`, a tar of any compression or a zip.

    It goes into a temporary folder, which takes its place once it is whole; a folder that is there
    is taken for whole. Of several processes one unpacks and the others wait. Links that lead out,
    devices, absolute names and the like are refused.

    Args:
        archive: known by its checksum, if it comes from the network.
        folder: that it becomes.
        members: how many files and folders it may hold.
        size: how many bytes these may have together: a small archive can hold a disk full of zeros.
        inside: the archive's folder that is wanted; what lies beside it is left out.

    Raises:
        ValueError: names the archive and the member that is refused, or that it is damaged.
        OSError: where the folder cannot be written.
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
                unpack_kind = _unpack_zip if zipfile.is_zipfile(archive) else _unpack_tar
                unpack_kind(archive, partial, _Limits(members, size))
                if not (partial / inside).is_dir():
                    raise ValueError(f"it holds no folder {inside}")
            os.sync()  # a rename that survives a power failure is of no use without the content
            (partial / inside).rename(folder)
            sync_folder(folder.parent)
        finally:
            shutil.rmtree(partial, ignore_errors=True)


class _Limits:
    """What is left of what an archive may hold."""

    def __init__(self, members: int, size: int) -> None:
        self.members, self.size = members, size

    def take(self, name: str, size: int) -> None:
        self.members -= 1
        self.size -= size
        if self.members < 0 or self.size < 0:
            raise ValueError(
                f"{name}: more {'files' if self.members < 0 else 'bytes'} than the archive should hold"
            )


def _unpack_tar(archive: Path, folder: Path, limits: _Limits) -> None:
    with tarfile.open(archive) as tar:
        for member in tar:  # one after the other: the headers of a bomb are not read to their end
            limits.take(member.name, member.size)
            tar.extract(member, folder, filter="data")
        assert tar.fileobj is not None
        if (
            len(tar.fileobj.read(PADDING)) == PADDING
        ):  # to the end, where the compression keeps its checksum
            raise ValueError("goes on after its end")


def _unpack_zip(archive: Path, folder: Path, limits: _Limits) -> None:
    with zipfile.ZipFile(archive) as zipped:
        for member in zipped.infolist():
            limits.take(member.filename, member.file_size)  # which extracting holds it to
            name = PurePosixPath(member.filename.replace("\\", "/"))
            if name.is_absolute() or ".." in name.parts:
                raise ValueError(f"{member.filename}: leads out of the folder")
            zipped.extract(member, folder)


@contextlib.contextmanager
def _refusals(archive: Path) -> Iterator[None]:
    """Say in one line what is wrong with `archive`."""
    try:
        yield
    except (
        ValueError,
        EOFError,
        RuntimeError,
        tarfile.TarError,
        zipfile.BadZipFile,
        gzip.BadGzipFile,
        zlib.error,
        lzma.LZMAError,
    ) as problem:
        reason = str(problem).partition("\n")[0].rstrip(":")
        raise ValueError(
            f"{archive}: {reason}; delete it to have it downloaded again, or do not trust it"
        ) from problem

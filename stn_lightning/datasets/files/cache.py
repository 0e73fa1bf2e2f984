"""Cache resized images in memory-mapped files.

Reading a crop copies only its pixels. A file holds at most `GROUP` images of one folder: a line of
JSON, then all pixels. Its name is a checksum over the images' names, sizes and modification times,
the content of the first one, and the way they are resized. So an image that is added, removed or
changed needs one new file, and selections of one data set share the others. `check` compares the
content of all images. Files are written atomically, so a build that was killed resumes.
"""

import hashlib
import itertools
import json
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from stn_lightning.datasets.decoding import RGBImage, raise_unreadable
from stn_lightning.datasets.files.download import sha256
from stn_lightning.datasets.files.paths import printable
from stn_lightning.runtime.atomic_files import atomic_write, remove_stale
from stn_lightning.runtime.locks import file_lock
from stn_lightning.runtime.provenance import program_name

VERSION = 2
GROUP = 256
"""Images in one file, at most."""


class Cache:
    """Resized images of `files`, in their order.

    Args:
        folder: folder of the cache; it can be deleted at any time.
        files: files of the images.
        side: smallest side of a resized image, in pixels.
        read: function that decodes and resizes an image.
        background: colour behind transparent pixels, as `read` has it.
    """

    def __init__(
        self,
        folder: Path,
        files: Sequence[Path],
        side: int,
        read: Callable[[Path], RGBImage],
        background: Sequence[int],
    ) -> None:
        self.folder, self.read = folder, read
        self.settings = [VERSION, side, *background]
        self.groups = list(_grouped(files))

    def build(self) -> None:
        """Decode what the cache lacks.

        Raises:
            ValueError: with a line for each image that cannot be read; the others are kept.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        remove_stale(self.folder)
        problems: list[str] = []
        for group in self.groups:
            path = self._path(group)
            if path.exists():
                continue
            with file_lock(path):
                if not path.exists():
                    problems += self._write(path, group)
        raise_unreadable(problems)

    def check(self) -> None:
        """Compare pixels and the images' files with their checksums.

        Raises:
            ValueError: with a line for each file of the cache that is not what it should be.
        """
        problems = []
        for group in self.groups:
            path = self._path(group)
            header, start = _header(path)
            with path.open("rb") as file:
                file.seek(start)
                if hashlib.file_digest(file, "sha256").hexdigest() != header["sha256"]:
                    problems.append(f"{path}: its pixels are not those that were written")
            sources = zip(group, header["sources"], strict=False)
            if changed := [file for file, digest in sources if sha256(file) != digest]:
                problems.append(f"{path}: {printable(changed[0])} has changed since it was made")
        if problems:
            cure = "; delete it to have it made again"
            raise ValueError("\n".join(f"{problem}{cure}" for problem in problems))

    def open(self) -> list[RGBImage]:
        """Map the images into memory, in the order of `files`.

        Raises:
            ValueError: if one of the cache's files is damaged.
            FileNotFoundError: if one is missing.
        """
        images: list[RGBImage] = []
        for group in self.groups:
            path = self._path(group)
            header, start = _header(path)
            pixels = np.memmap(path, np.uint8, "r", offset=start)
            ends = list(itertools.accumulate(math.prod(shape) for shape in header["shapes"]))
            if len(ends) != len(group) or ends[-1] != len(pixels):
                raise ValueError(
                    f"{path}: {len(pixels):,} bytes of pixels are not those of {len(group)} "
                    "images; delete it to have it made again"
                )
            parts = zip([0, *ends], ends, header["shapes"], strict=False)
            images += [np.asarray(pixels[start:end]).reshape(shape) for start, end, shape in parts]
        return images

    def _path(self, group: Sequence[Path]) -> Path:
        digest = hashlib.sha256(json.dumps(self.settings).encode())
        for file in group:
            stat = file.stat()
            digest.update(json.dumps([file.name, stat.st_size, stat.st_mtime_ns]).encode())
        digest.update(sha256(group[0]).encode())  # archives may give all files one time
        return self.folder / f"{printable(group[0].parent.name)}.{digest.hexdigest()[:16]}.images"

    def _write(self, path: Path, group: Sequence[Path]) -> list[str]:
        """Write a group of images, or return the problems."""
        images, problems = [], []
        for file in group:
            try:
                images.append(np.ascontiguousarray(self.read(file)))
            except ValueError as problem:
                problems.append(str(problem))
        if problems:
            return problems
        digest = hashlib.sha256()
        for image in images:
            digest.update(image.data)
        header = {
            "version": VERSION,
            "shapes": [image.shape for image in images],
            "sha256": digest.hexdigest(),
            "sources": [sha256(file) for file in group],
        }
        with atomic_write(path) as stream:
            stream.write(json.dumps(header).encode() + b"\n")
            for image in images:
                stream.write(image.data)
        return []


def _grouped(files: Sequence[Path]) -> Iterator[list[Path]]:
    """Group neighbours in one folder, at most `GROUP` together."""
    for _, members in itertools.groupby(files, key=lambda path: path.parent):
        together = list(members)
        for first in range(0, len(together), GROUP):
            yield together[first : first + GROUP]


def _header(path: Path) -> tuple[dict[str, Any], int]:
    """Read the first line, and return where the pixels begin."""
    try:
        with path.open("rb") as file:
            line = file.readline(1 << 20)
        header = json.loads(line)
        assert header["version"] == VERSION
        assert all(len(shape) == 3 and min(shape) > 0 for shape in header["shapes"])
        assert header["sha256"]
        assert len(header["sources"]) == len(header["shapes"])
    except FileNotFoundError as problem:
        raise FileNotFoundError(
            f"{path} is missing; `{program_name()} prepare` makes it"
        ) from problem
    except (OSError, ValueError, KeyError, TypeError, AssertionError) as problem:
        raise ValueError(
            f"{path}: byte 0: this does not begin a cache of images; "
            "delete it to have it made again"
        ) from problem
    return header, len(line)

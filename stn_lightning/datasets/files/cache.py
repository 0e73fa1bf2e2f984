"""Cache resized images in memory-mapped files.

Reading a crop copies only the crop's pixels. A file has at most `GROUP` images of one folder: a
line of JSON, then all pixels. Its name contains a checksum of the images' names, sizes and
modification times, the content of the first image, and the settings of resizing. So if an image is
added, removed or changed, one file is written anew; the others are still used, also by other
selections of the data set. `check` compares the content of all images. Files are written
atomically, so a build that was killed can continue.
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
from stn_lightning.runtime.lists import first_few
from stn_lightning.runtime.locks import file_lock
from stn_lightning.runtime.provenance import program_name

VERSION = 2
GROUP = 256
"""Largest number of images in one file."""


class Cache:
    """Resized images of `files`, in their order.

    Args:
        folder: folder of the cache; it can be deleted at any time.
        files: files of the images.
        side: smaller side of a resized image, in pixels.
        read: function that decodes and resizes an image.
        background: colour behind transparent pixels that `read` uses.
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
        """Decode the images that are not in the cache.

        Raises:
            ValueError: images cannot be read; the first ones are named. Files without such an image
                are written.
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
        """Compare cached pixels and image files with their checksums.

        Raises:
            ValueError: with a line for each of the first files of the cache that are damaged or out
                of date.
        """
        problems = []
        for group in self.groups:
            path = self._path(group)
            header, start = _header(path)
            with path.open("rb") as file:
                file.seek(start)
                if hashlib.file_digest(file, "sha256").hexdigest() != header["sha256"]:
                    problems.append(f"{path}: its pixels have changed since it was written")
            sources = zip(group, header["sources"], strict=False)
            if changed := [file for file, digest in sources if sha256(file) != digest]:
                problems.append(f"{path}: {printable(changed[0])} has changed since it was written")
        if problems:
            cure = "; delete it, and it is written anew"
            raise ValueError("\n".join(first_few([f"{problem}{cure}" for problem in problems])))

    def open(self) -> list[RGBImage]:
        """Map the images into memory, in the order of `files`.

        Raises:
            ValueError: a file of the cache is damaged.
            FileNotFoundError: a file of the cache is missing.
        """
        images: list[RGBImage] = []
        for group in self.groups:
            path = self._path(group)
            header, start = _header(path)
            pixels = np.memmap(path, np.uint8, "r", offset=start)
            ends = list(itertools.accumulate(math.prod(shape) for shape in header["shapes"]))
            if len(ends) != len(group) or ends[-1] != len(pixels):
                raise ValueError(
                    f"{path}: {len(pixels):,} bytes of pixels do not fit {len(group)} images; "
                    "delete it, and it is written anew"
                )
            parts = zip([0, *ends], ends, header["shapes"], strict=False)
            images += [np.asarray(pixels[start:end]).reshape(shape) for start, end, shape in parts]
        return images

    def _path(self, group: Sequence[Path]) -> Path:
        digest = hashlib.sha256(json.dumps(self.settings).encode())
        for file in group:
            stat = file.stat()
            digest.update(json.dumps([file.name, stat.st_size, stat.st_mtime_ns]).encode())
        digest.update(sha256(group[0]).encode())  # archives may give all files the same time
        return self.folder / f"{printable(group[0].parent.name)}.{digest.hexdigest()[:16]}.images"

    def _write(self, path: Path, group: Sequence[Path]) -> list[str]:
        """Write the images of a group; return problems with them."""
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
    """Yield up to `GROUP` successive files of one folder."""
    for _, members in itertools.groupby(files, key=lambda path: path.parent):
        together = list(members)
        for first in range(0, len(together), GROUP):
            yield together[first : first + GROUP]


def _header(path: Path) -> tuple[dict[str, Any], int]:
    """Return the header, and the position of the first pixel."""
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
            f"{path}: byte 0: this is no header of a cache; delete it, and it is written anew"
        ) from problem
    return header, len(line)

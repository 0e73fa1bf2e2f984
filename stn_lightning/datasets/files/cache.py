"""A cache of decoded, resized photographs: files that are mapped into memory, so that reading a
crop copies a crop.

Pictures of one folder go into one file, at most `PICTURES` of them: a line of JSON, then all
pixels. The file's name is a checksum over what went in (names, sizes in bytes, side), so a picture
that is added, taken out or replaced by one of another size makes one new file, and selections of
the same data set share the rest. Each file is whole or not there, so a build that was killed goes
on where it stopped.
"""

import hashlib
import itertools
import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from stn_lightning.datasets.image_files import (
    Picture,
    decode,
    image_size,
    raise_all,
    resize_smallest_side,
)
from stn_lightning.runtime.atomic_files import atomic_write, remove_stale
from stn_lightning.runtime.locks import file_lock
from stn_lightning.runtime.provenance import program_name

VERSION = 1
PICTURES = 256


class Cache:
    """Resized pictures of `files`, in their order.

    Args:
        folder: where the cache lies; it can be deleted at any time.
        files: of the pictures.
        side: their smallest side becomes this, in pixels.
    """

    def __init__(self, folder: Path, files: Sequence[Path], side: int) -> None:
        self.folder, self.side = folder, side
        self.groups = list(_grouped(files))

    def build(self) -> None:
        """Decode what the cache lacks.

        Raises:
            ValueError: a line for each picture that cannot be read. The others are kept.
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
        raise_all(problems)

    def check(self) -> None:
        """Compare all pixels with their checksums.

        Raises:
            ValueError: a line for each file that is not what was written.
        """
        problems = []
        for group in self.groups:
            path = self._path(group)
            header, start = _header(path)
            with path.open("rb") as file:
                file.seek(start)
                if hashlib.file_digest(file, "sha256").hexdigest() != header["sha256"]:
                    problems.append(
                        f"{path}: its pixels are not those that were written; delete it to have it made again"
                    )
        if problems:
            raise ValueError("\n".join(problems))

    def open(self) -> list[Picture]:
        """Map the pictures into memory, in the order of `files`.

        Raises:
            ValueError: where one of the cache's files is damaged.
            FileNotFoundError: where one is missing.
        """
        pictures: list[Picture] = []
        for group in self.groups:
            path = self._path(group)
            header, start = _header(path)
            pixels = np.memmap(path, np.uint8, "r", offset=start)
            ends = list(itertools.accumulate(math.prod(shape) for shape in header["shapes"]))
            if len(ends) != len(group) or ends[-1] != len(pixels):
                raise ValueError(
                    f"{path}: {len(pixels):,} bytes of pixels are not those of {len(group)} pictures; delete it to have it made again"
                )
            parts = zip([0, *ends], ends, header["shapes"], strict=False)
            pictures += [
                np.asarray(pixels[start:end]).reshape(shape) for start, end, shape in parts
            ]
        return pictures

    def _path(self, group: Sequence[Path]) -> Path:
        content = [VERSION, self.side, [(path.name, path.stat().st_size) for path in group]]
        return (
            self.folder
            / f"{group[0].parent.name}.{hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]}.pictures"
        )

    def _write(self, path: Path, group: Sequence[Path]) -> list[str]:
        """All pictures of the group, or what is wrong with some."""
        pictures, problems = [], []
        for file in group:
            try:
                image_size(file)
                pictures.append(resize_smallest_side(decode(file), self.side))
            except ValueError as problem:
                problems.append(str(problem))
        if problems:
            return problems
        digest = hashlib.sha256()
        for picture in pictures:
            digest.update(np.ascontiguousarray(picture).data)
        header = {
            "version": VERSION,
            "side": self.side,
            "shapes": [picture.shape for picture in pictures],
            "sha256": digest.hexdigest(),
        }
        with atomic_write(path) as stream:
            stream.write(json.dumps(header).encode() + b"\n")
            for picture in pictures:
                stream.write(np.ascontiguousarray(picture).data)
        return []


def _grouped(files: Sequence[Path]) -> Iterator[list[Path]]:
    """Neighbours that lie in one folder, at most `PICTURES` together."""
    for _, members in itertools.groupby(files, key=lambda path: path.parent):
        together = list(members)
        for first in range(0, len(together), PICTURES):
            yield together[first : first + PICTURES]


def _header(path: Path) -> tuple[dict[str, Any], int]:
    """What the first line says, and where the pixels begin."""
    try:
        with path.open("rb") as file:
            line = file.readline(1 << 20)
        header = json.loads(line)
        assert header["version"] == VERSION
        assert all(len(shape) == 3 and min(shape) > 0 for shape in header["shapes"])
        assert header["sha256"]
    except FileNotFoundError as problem:
        raise FileNotFoundError(
            f"{path} is missing; `{program_name()} prepare` makes it"
        ) from problem
    except (OSError, ValueError, KeyError, TypeError, AssertionError) as problem:
        raise ValueError(
            f"{path}: byte 0: this does not begin a cache of pictures; delete it to have it made again"
        ) from problem
    return header, len(line)

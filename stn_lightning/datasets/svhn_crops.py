"""House numbers, cut out once and put into one file that is mapped into memory.

The file: a line of JSON (version, checksum of the annotations, shape), filled up to `HEADER` bytes;
then for each number its five digits, a byte each, and its pixels. It is written number by number
under another name, so what was written before a process was killed is kept.
"""

import json
import math
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from stn_lightning.datasets.digit_struct import read_digit_struct
from stn_lightning.datasets.files.download import sha256
from stn_lightning.datasets.svhn_boxes import DIGITS, MARGIN, NumberBoxes, digits_of
from stn_lightning.runtime.atomic_files import atomic_write, sync_folder
from stn_lightning.runtime.locks import file_lock
from stn_lightning.runtime.provenance import program_name

VERSION = 1
HEADER = 512
BLOCK = 256
"""Numbers that are cut at a time."""
PIXELS = 2**25
"""A photograph that says it has more is refused: SVHN's largest have a million."""
BROKEN = 255
"""The first digit of a number whose photograph cannot be read."""
NEWS = 30.0
"""Seconds between two lines of progress where the output is no terminal."""

Bytes = npt.NDArray[np.uint8]
Box = npt.NDArray[np.float64]


class SVHNCropFile:
    """The numbers of one archive.

    Args:
        folder: of the photographs and digitStruct.mat.
        path: of the file of crops.
        size: of a crop, in pixels.
        margin: pixels around the crop on every side.
        looseness: side of the crop over that of the number's box enlarged by 30 %.
    """

    def __init__(self, folder: Path, path: Path, size: int, margin: int, looseness: float) -> None:
        self.folder, self.path, self.size, self.margin, self.looseness = (
            folder,
            path,
            size,
            margin,
            looseness,
        )
        self.shape = (3, size + 2 * margin, size + 2 * margin)
        self.record = np.dtype([("label", np.uint8, DIGITS), ("image", np.uint8, self.shape)])

    def open(self) -> tuple[Bytes, Bytes]:
        """Pixels (numbers, 3, side, side) and digits (numbers, 5), mapped into memory.

        Raises:
            ValueError: where the file is damaged.
            FileNotFoundError: where there is none.
        """
        if not self.path.exists():
            raise FileNotFoundError(
                f"{self.path} is missing; `{program_name()} prepare svhn` makes it"
            )
        try:
            header = json.loads(_head(self.path))
            numbers, *shape = header["shape"]
            assert header["version"] == VERSION
            assert tuple(shape) == self.shape
            assert self.path.stat().st_size == HEADER + numbers * self.record.itemsize
        except (ValueError, KeyError, TypeError, AssertionError, RecursionError) as problem:
            raise ValueError(
                f"{self.path}: is no whole file of crops of {self.size} px; delete it to have it made again"
            ) from problem
        rows = self._rows(self.path, numbers)
        return rows["image"], rows["label"]

    @property
    def left_out(self) -> Path:
        """A file with a line for each number that could not be used."""
        return self.path.with_suffix(".left_out.txt")

    def build(self) -> None:
        """Cut what is not cut yet, saying how far it is; name what is left out, and why.

        Raises:
            ValueError: where the annotations are none.
            OSError: where there is no room.
        """
        with file_lock(self.path):
            if self.path.exists():
                return
            source = self.folder / "digitStruct.mat"
            numbers, broken = read_digit_struct(source)
            digits, count = digits_of(numbers)
            usable = np.flatnonzero((count > 0) & (count <= DIGITS))
            header = {
                "version": VERSION,
                "source": sha256(source),
                "looseness": self.looseness,
                "shape": [len(usable), *self.shape],
            }
            partial = self.path.with_suffix(".partial")
            self._append(
                partial,
                json.dumps(header).encode().ljust(HEADER),
                numbers,
                usable,
                digits.numpy().astype(np.uint8),
            )
            unread = usable[self._rows(partial, len(usable))["label"][:, 0] == BROKEN]
            longer = [
                f"{numbers.names[i]}: it has {count[i]} digits, more than {DIGITS}"
                for i in np.flatnonzero(count > DIGITS)
            ]
            with atomic_write(self.left_out) as file:
                lines = [*broken, *longer, *(str(self._cut(numbers, i)) for i in unread)]
                file.write("".join(f"{line}\n" for line in lines).encode())
            partial.rename(self.path)
            sync_folder(self.path.parent)

    def _append(
        self,
        partial: Path,
        header: bytes,
        numbers: NumberBoxes,
        usable: npt.NDArray[np.int64],
        digits: Bytes,
    ) -> None:
        """Go on with a file that was begun from the same annotations, or begin one."""
        size = self.record.itemsize
        begun = partial.exists() and _head(partial) == header
        done = (partial.stat().st_size - HEADER) // size if begun else 0
        with partial.open("r+b" if begun else "w+b") as file, ThreadPoolExecutor() as threads:
            file.write(header)
            file.truncate(HEADER + done * size)  # what was half written
            file.seek(0, 2)
            for first in _with_time_left(
                range(done, len(usable), BLOCK), len(usable), self.path.name
            ):
                block = usable[first : first + BLOCK]
                rows = np.zeros(len(block), self.record)
                rows["label"] = digits[block]
                for row, cut in zip(
                    rows, threads.map(lambda i: self._cut(numbers, i), block), strict=True
                ):
                    if isinstance(cut, ValueError):
                        row["label"] = BROKEN
                    else:
                        row["image"] = cut
                file.write(rows.tobytes())

    def _cut(self, numbers: NumberBoxes, i: np.int64) -> Bytes | ValueError:
        """The crop of one number, or what is wrong with its photograph."""
        box = numbers.box[numbers.owner.searchsorted(i) : numbers.owner.searchsorted(i, "right")]
        outer = np.concatenate([box[:, :2].min(0), box[:, 2:].max(0)])
        try:
            return cut(
                self.folder / numbers.names[i], outer, self.size, self.margin, self.looseness
            )
        except ValueError as problem:
            return problem

    def _rows(self, path: Path, numbers: int) -> np.ndarray:
        return (
            np.memmap(path, self.record, "r", HEADER, numbers)
            if numbers
            else np.zeros(0, self.record)
        )


def cut(path: Path, outer: Box, size: int, margin: int, looseness: float) -> Bytes:
    """What is around a box in a photograph, as a square of pixels, (3, side, side).

    The box enlarged by 30 % and by `looseness`, as far as the photograph reaches, becomes the inner
    `size` x `size` pixels, whatever its shape. The margin around them shows what is there, and
    beyond the photograph's border its outermost pixels.

    Raises:
        ValueError: names the file and what is wrong with it.
    """
    try:
        with Image.open(path) as image:
            if image.width * image.height > PIXELS:
                raise ValueError(
                    f"it says it has {image.width * image.height:,} pixels, more than {PIXELS:,}"
                )
            photograph = np.asarray(image.convert("RGB"))
    except Exception as problem:  # of many kinds, all about the file
        reason = (
            "is missing"
            if isinstance(problem, FileNotFoundError)
            else f"is no whole picture ({' '.join(str(problem).split())})"
        )
        raise ValueError(f"{path}: {reason}") from problem
    height, width = photograph.shape[:2]
    if outer[0] >= width or outer[1] >= height or outer[2] <= 0 or outer[3] <= 0:
        raise ValueError(f"{path}: its boxes lie outside of its {width} x {height} pixels")
    inner = _enlarged(outer, MARGIN * looseness).clip(0, [width, height, width, height])
    left, top, right, bottom = _enlarged(inner, 1 + 2 * margin / size)
    x, y, x_end, y_end = math.floor(left), math.floor(top), math.ceil(right), math.ceil(bottom)
    rows, columns = np.arange(y, y_end).clip(0, height - 1), np.arange(x, x_end).clip(0, width - 1)
    window = Image.fromarray(photograph[rows[:, None], columns])
    side = size + 2 * margin
    square = window.resize(
        (side, side), Image.Resampling.BILINEAR, (left - x, top - y, right - x, bottom - y)
    )  # antialiased
    return np.asarray(square).transpose(2, 0, 1)


def _head(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(HEADER)


def _enlarged(box: Box, factor: float) -> Box:
    centre, half = (box[:2] + box[2:]) / 2, (box[2:] - box[:2]) / 2 * factor
    return np.concatenate([centre - half, centre + half])


def _with_time_left(steps: range, total: int, name: str) -> Iterator[int]:
    """The steps; says now and then how far they are."""
    start = said = time.monotonic()
    terminal = sys.stderr.isatty()
    for step in steps:
        yield step
        now, done = time.monotonic(), min(step + steps.step, total)
        if now - said > (0.5 if terminal else NEWS) or (terminal and done == total):
            said = now
            left = (now - start) * (total - done) / (done - steps.start)
            line = f"{name}: {done:,} of {total:,} numbers, {left / 60:.0f} min {left % 60:02.0f} s left"
            print(
                f"\r{line} ", end="\n" if done == total else "", file=sys.stderr
            ) if terminal else print(line, file=sys.stderr)

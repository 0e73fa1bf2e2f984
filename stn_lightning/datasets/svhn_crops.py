"""Crop house numbers once, into a memory-mapped file.

The file is an array for `np.load`, of records with the fields `label` (five digits, a byte each)
and `image` (3, side, side). Until it is complete it has another name. Pixels are written before
their labels, so a build that was killed continues where it stopped.
"""

import hashlib
import json
import math
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from numpy.lib.format import open_memmap
from PIL import Image
from rich.console import Console
from rich.progress import track

from stn_lightning.datasets.decoding import decode
from stn_lightning.datasets.digit_struct import read_digit_struct
from stn_lightning.datasets.files.download import sha256
from stn_lightning.datasets.files.paths import printable
from stn_lightning.datasets.svhn_boxes import DIGITS, ENLARGEMENT, NumberBoxes, digits_of
from stn_lightning.runtime.atomic_files import atomic_write, sync_folder
from stn_lightning.runtime.locks import file_lock
from stn_lightning.runtime.provenance import program_name

VERSION = 2
BLOCK = 256
"""Number of images that are cropped at a time."""
BROKEN, MISSING = 255, 254
"""Label of an image that cannot be read, and of one that is not cropped yet (first digit)."""

Bytes = npt.NDArray[np.uint8]
Box = npt.NDArray[np.float64]
Records = np.memmap[Any, np.dtype[Any]]


class SVHNCropFile:
    """The crops of one archive.

    Args:
        folder: folder of the images and digitStruct.mat.
        path: file of the crops.
        size: side of a crop without its margin, in pixels.
        margin: pixels around the crop on every side.
        looseness: side of the crop / side of the number's box enlarged by 30 %.
    """

    def __init__(self, folder: Path, path: Path, size: int, margin: int, looseness: float) -> None:
        self.folder, self.path, self.looseness = folder, path, looseness
        self.size, self.margin = size, margin
        self.shape = (3, size + 2 * margin, size + 2 * margin)
        self.record = np.dtype([("label", np.uint8, (DIGITS,)), ("image", np.uint8, self.shape)])

    @property
    def left_out(self) -> Path:
        """File with a line for each unusable number."""
        return self.path.with_suffix(".left_out.txt")

    def open(self) -> tuple[Bytes, Bytes]:
        """Map images and digits into memory.

        Images are (numbers, 3, side, side), digits (numbers, 5).

        Raises:
            ValueError: the file is damaged.
            FileNotFoundError: there is no such file.
        """
        if not self.path.exists():
            raise FileNotFoundError(
                f"{self.path} is missing; `{program_name()} prepare svhn` makes it"
            )
        try:
            records = np.load(self.path, mmap_mode="r")
            assert records.dtype == self.record
            assert records.ndim == 1
            assert self.path.stat().st_size == records.offset + records.nbytes
        except (ValueError, EOFError, AssertionError, AttributeError) as problem:
            raise ValueError(
                f"{self.path}: is no complete file of crops of {self.size} px; "
                "delete it, and it is written anew"
            ) from problem
        return records["image"], records["label"]

    def build(self) -> None:
        """Crop images that are not cropped yet; show progress.

        The file `left_out` lists images that cannot be used, with the reason.

        Raises:
            ValueError: the annotations cannot be read, or no image can be used.
            OSError: the disk is full.
        """
        with file_lock(self.path):
            if self.path.exists():
                return
            source = self.folder / "digitStruct.mat"
            numbers, broken = read_digit_struct(source)
            digits, count = digits_of(numbers)
            usable = np.flatnonzero((count > 0) & (count <= DIGITS))
            if not len(usable):
                raise ValueError(f"{source}: no entry can be used; {' '.join(broken[:1])}")
            partial = self._begin(sha256(source), len(usable))
            records = open_memmap(partial, "r+")
            self._fill(records, numbers, usable, digits.numpy().astype(np.uint8))
            unread = usable[records["label"][:, 0] == BROKEN]
            longer = [
                f"{numbers.names[i]}: it has {count[i]} digits, more than {DIGITS}"
                for i in np.flatnonzero(count > DIGITS)
            ]
            with atomic_write(self.left_out) as file:
                lines = [*broken, *longer, *(str(self._cut(numbers, i)) for i in unread)]
                file.write("".join(f"{line}\n" for line in lines).encode())
            records.flush()
            partial.rename(self.path)
            sync_folder(self.path.parent)

    def _begin(self, annotations: str, numbers: int) -> Path:
        """Return an earlier build's partial file, or a new one."""
        settings = json.dumps([VERSION, annotations, self.looseness, numbers, self.shape])
        key = hashlib.sha256(settings.encode()).hexdigest()[:16]
        partial = self.path.with_suffix(f".{key}.partial")
        for other in self.path.parent.glob(f"{self.path.stem}.*.partial*"):
            if other != partial:
                other.unlink()
        if not partial.exists():
            new = self.path.with_suffix(f".{key}.partial.new")
            records = open_memmap(new, "w+", self.record, (numbers,))
            with new.open("r+b") as file:
                # on a full disk this is an error; a write into the map would end the process
                os.posix_fallocate(file.fileno(), 0, new.stat().st_size)
            records["label"] = MISSING
            records.flush()
            new.rename(partial)
        return partial

    def _fill(
        self,
        records: Records,
        numbers: NumberBoxes,
        usable: npt.NDArray[np.int64],
        digits: Bytes,
    ) -> None:
        left = np.flatnonzero(records["label"][:, 0] == MISSING)
        blocks = [left[first : first + BLOCK] for first in range(0, len(left), BLOCK)]
        console = Console(stderr=True)
        with ThreadPoolExecutor() as threads:
            for block in track(
                blocks,
                f"{self.path.name}, {len(left):,} numbers",
                console=console,
                disable=not console.is_terminal,
            ):
                labels = digits[usable[block]]
                crops = threads.map(lambda i: self._cut(numbers, i), usable[block])
                for row, label, crop in zip(block, labels, crops, strict=True):
                    if isinstance(crop, ValueError):
                        label[:] = BROKEN
                    else:
                        records["image"][row] = crop
                records.flush()  # pixels must be on the disk before their labels
                records["label"][block] = labels

    def _cut(self, numbers: NumberBoxes, i: np.int64) -> Bytes | ValueError:
        """Return the crop of image `i`, or its problem."""
        box = numbers.box[numbers.owner.searchsorted(i) : numbers.owner.searchsorted(i, "right")]
        outer = np.concatenate([box[:, :2].min(0), box[:, 2:].max(0)])
        file = self.folder / numbers.names[i]
        try:
            return cut(file, outer, self.size, self.margin, self.looseness)
        except ValueError as problem:
            return problem


def cut(path: Path, outer: Box, size: int, margin: int, looseness: float) -> Bytes:
    """Crop an image around a box.

    The box is enlarged by 30 % and by `looseness`, clipped to the image, and resized to `size` x
    `size` pixels, whatever its proportions. The margin shows the image around it; beyond the
    image's border the border pixels are repeated.

    Args:
        path: file of the image.
        outer: left, top, right and bottom of the box, in pixels.
        size: side of the crop without its margin, in pixels.
        margin: pixels around the crop on every side.
        looseness: further factor by which the box is enlarged.

    Returns:
        the crop with its margin, (3, size + 2 margin, size + 2 margin).

    Raises:
        ValueError: the image cannot be read, or the box is outside of it; the message names the
            file.
    """
    image = decode(path)
    height, width = image.shape[:2]
    if outer[0] >= width or outer[1] >= height or outer[2] <= 0 or outer[3] <= 0:
        raise ValueError(
            f"{printable(path)}: its boxes are outside of its {width} x {height} pixels"
        )
    inner = _enlarged(outer, ENLARGEMENT * looseness).clip(0, [width, height, width, height])
    left, top, right, bottom = _enlarged(inner, 1 + 2 * margin / size)
    x, y, x_end, y_end = math.floor(left), math.floor(top), math.ceil(right), math.ceil(bottom)
    rows, columns = np.arange(y, y_end).clip(0, height - 1), np.arange(x, x_end).clip(0, width - 1)
    window = Image.fromarray(image[rows[:, None], columns])
    side = size + 2 * margin
    box = (left - x, top - y, right - x, bottom - y)
    square = window.resize((side, side), Image.Resampling.BILINEAR, box)  # antialiased
    return np.asarray(square).transpose(2, 0, 1)


def _enlarged(box: Box, factor: float) -> Box:
    centre, half = (box[:2] + box[2:]) / 2, (box[2:] - box[:2]) / 2 * factor
    return np.concatenate([centre - half, centre + half])

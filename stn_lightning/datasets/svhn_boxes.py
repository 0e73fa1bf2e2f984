"""House numbers as boxes around their digits.

Reference:
    Netzer et al. 2011, "Reading Digits in Natural Images with Unsupervised Feature Learning" (SVHN,
    Format 1).
"""

import json
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float, Int64
from torch import Tensor

DIGITS = 5
"""Largest number of digits; one of SVHN's numbers has six."""
NO_DIGIT = 10
"""Class of the positions after a number's last digit."""
CLASSES = (*"0123456789", "")
ENLARGEMENT = 1.3
"""Side of the crop / side of the box around all digits; the paper's "enlarged by 30 %"."""
LENGTHS = (5137, 18130, 8691, 1434, 9)
"""How many of SVHN's training numbers have 1, 2, ... 5 digits; the one with six is left out."""

Integers = npt.NDArray[np.int64]
Boxes = npt.NDArray[np.float64]


class NumberBoxes(NamedTuple):
    """Annotated images, with one row for each digit's box."""

    names: list[str]
    """file names, (images,)"""
    owner: Integers
    """index of the image of each box, in ascending order, (boxes,)"""
    label: Integers
    """1 to 9, and 10 for the digit 0, (boxes,)"""
    box: Boxes
    """left, top, right, bottom in pixels, (boxes, 4)"""


class Layouts(NamedTuple):
    """The boxes of the digits of numbers."""

    box: Float[Tensor, "numbers digits 4"]
    """left, top, right, bottom, from -1 to 1 across the crop, which is the box around all digits
    enlarged by 30 %; NaN for positions without a digit
    """
    label: Int64[Tensor, "numbers digits"]
    aspect: Float[Tensor, " numbers"]
    """width / height of the crop, in pixels of the image"""


def digits_of(numbers: NumberBoxes) -> tuple[Int64[Tensor, "images digits"], Integers]:
    """Return digits, and number of digits, of each image.

    Positions after the last digit have `NO_DIGIT`. Digits after the fifth are left out.
    """
    count = np.bincount(numbers.owner, minlength=len(numbers.names))
    digits = np.full((len(count), DIGITS), NO_DIGIT)
    place = np.arange(len(numbers.owner)) - np.repeat(np.cumsum(count) - count, count)
    kept = place < DIGITS
    digits[numbers.owner[kept], place[kept]] = numbers.label[kept] % 10
    return torch.from_numpy(digits), count


def around(numbers: NumberBoxes) -> Boxes:
    """Return the box around each image's digits, (images, 4).

    It is NaN for images without digits.
    """
    low = np.full((len(numbers.names), 2), np.inf)
    high = -low
    np.minimum.at(low, numbers.owner, numbers.box[:, :2])
    np.maximum.at(high, numbers.owner, numbers.box[:, 2:])
    return np.where(np.isfinite(low).all(1)[:, None], np.concatenate([low, high], 1), np.nan)


def layouts(numbers: NumberBoxes) -> Layouts:
    """Return layouts of images with one to five digits."""
    label, count = digits_of(numbers)
    usable = (count > 0) & (count <= DIGITS)
    outer = around(numbers)
    centre = (outer[:, :2] + outer[:, 2:]) / 2
    half = (outer[:, 2:] - outer[:, :2]) * ENLARGEMENT / 2
    place = np.arange(len(numbers.owner)) - np.repeat(np.cumsum(count) - count, count)
    kept = usable[numbers.owner]
    owner = numbers.owner[kept]
    box = np.full((len(count), DIGITS, 4), np.nan)
    box[owner, place[kept]] = (numbers.box[kept] - np.tile(centre[owner], 2)) / np.tile(
        half[owner], 2
    )
    aspect = half[usable, 0] / half[usable, 1]
    return Layouts(
        torch.from_numpy(box[usable]).float(),
        label[torch.from_numpy(usable)],
        torch.from_numpy(aspect).float(),
    )


def read_json(path: Path) -> NumberBoxes:
    """Read annotations from JSON.

    The file holds a list of {"name", "boxes": [[label, left, top, right, bottom], ...]}.

    Raises:
        ValueError: an entry has another form; the message names the file and the entry.
    """
    try:
        entries = json.loads(path.read_text())
    except (ValueError, RecursionError) as problem:
        raise ValueError(f"{path}: {str(problem).splitlines()[0]}; it is not JSON") from problem
    if not isinstance(entries, list):
        raise ValueError(f"{path}: is no list of images")
    for row, entry in enumerate(entries):
        if not _is_entry(entry):
            raise ValueError(
                f'{path}: entry {row}: expected {{"name": ..., '
                '"boxes": [[label, left, top, right, bottom], ...]}'
            )
    rows = [(i, *box) for i, entry in enumerate(entries) for box in entry["boxes"]]
    values = np.array(rows, float).reshape(-1, 6)
    return NumberBoxes(
        [entry["name"] for entry in entries],
        values[:, 0].astype(int),
        values[:, 1].astype(int),
        values[:, 2:],
    )


def _is_entry(entry: object) -> bool:
    if (
        not isinstance(entry, dict)
        or not isinstance(entry.get("name"), str)
        or not isinstance(entry.get("boxes"), list)
    ):
        return False
    for box in entry["boxes"]:
        if (
            not isinstance(box, list)
            or len(box) != 5
            or not all(type(v) in (int, float) and abs(v) < 1e6 for v in box)
        ):
            return False
        if box[0] not in range(1, 11) or not (box[1] < box[3] and box[2] < box[4]):
            return False
    return True


def drawn_layouts(n: int, seed: int = 0) -> Layouts:
    """Draw layouts with the statistics of SVHN's training numbers.

    They replace SVHN's annotations if those are missing. Lengths have SVHN's frequencies. All
    digits are equally likely, and those of a number have the same height. Widths, and gaps between
    digits, are normally distributed with SVHN's means and standard deviations, relative to the
    height: 0.52 and 0.13 for widths (0.38 and 0.11 for a 1), 0.00 and 0.10 for gaps.

    Args:
        n: number of layouts.
        seed: seed of the random numbers.
    """
    generator = torch.Generator().manual_seed(seed)
    length = (
        torch.multinomial(
            torch.tensor(LENGTHS, dtype=torch.float), n, replacement=True, generator=generator
        )
        + 1
    )
    label = torch.randint(0, 10, (n, DIGITS), generator=generator)
    noise = torch.randn(3, n, DIGITS, generator=generator).clamp(-2.5, 2.5)
    width = torch.where(label == 1, 0.38 + 0.11 * noise[0], 0.52 + 0.13 * noise[0])
    left = (width + 0.10 * noise[1]).cumsum(1) - width
    top = (0.11 * noise[2]).cumsum(1)
    beyond = torch.arange(DIGITS) >= length[:, None]
    box = torch.stack([left, top, left + width, top + 1], 2).masked_fill(
        beyond[:, :, None], torch.nan
    )
    low, high = (
        box[..., :2].nan_to_num(torch.inf).amin(1),
        box[..., 2:].nan_to_num(-torch.inf).amax(1),
    )
    half = (high - low) * ENLARGEMENT / 2
    box = (box - ((low + high) / 2).repeat(1, 2)[:, None]) / half.repeat(1, 2)[:, None]
    return Layouts(box, label.masked_fill(beyond, NO_DIGIT), half[:, 0] / half[:, 1])

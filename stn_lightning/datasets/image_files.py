"""Photographs of any size, on disk: decoded one by one, or read from a cache of resized ones."""

import warnings
from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float32, Int64, UInt8
from PIL import Image
from torch import Tensor
from torch.nn import functional

from stn_lightning.batch import Split
from stn_lightning.datasets.sources import Source

PIXELS = 2**27
"""A picture that says it has more is refused: a few bytes of JPEG can unfold into 12 GB."""

Picture = UInt8[np.ndarray, "_ _ 3"]
"""(height, width, 3)"""


class ImageFileDataset(NamedTuple):
    """A split. `image[i]` reads picture i, its smallest side brought to the source's `side`."""

    image: Sequence[Picture]
    label: Int64[Tensor, " pictures"]
    names: Sequence[str]
    """Files, for messages and predictions."""


class ImageFileSource(Source):
    """A data set of photographs."""

    side: int
    """Smallest side of a picture as it is read, in pixels."""

    @abstractmethod
    def load(self, split: Split) -> ImageFileDataset: ...


class DecodedImages(Sequence[Picture]):
    """Pictures that are decoded each time they are read.

    Args:
        files: JPEG, PNG or WebP.
        side: their smallest side becomes this, in pixels.
    """

    def __init__(self, files: Sequence[Path], side: int) -> None:
        self.files, self.side = files, side

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, i: int) -> Picture:  # type: ignore[override]  # no slices
        return resize_smallest_side(decode(self.files[i]), self.side)


def decode(path: Path) -> Picture:
    """The picture in a file, in colour.

    By Pillow: TorchVision's decoder is faster, but it is deprecated, and damaged files can take the
    whole process down with it.

    Raises:
        ValueError: names the file and what is wrong with it.
    """
    try:
        with Image.open(path) as picture:
            return np.asarray(picture if picture.mode == "RGB" else picture.convert("RGB"))
    except Exception as problem:  # of many kinds, all about the file
        reason = (str(problem).splitlines() or [type(problem).__name__])[0].replace(
            f" '{path}'", ""
        )
        raise ValueError(f"{path}: {reason}; is it a whole JPEG, PNG or WebP file?") from problem


def image_size(path: Path) -> tuple[int, int]:
    """Height and width of the picture in a file, from its header alone.

    Raises:
        ValueError: where it has none, or more than `PIXELS`.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore"
            )  # of very large pictures, which `checked` refuses, and of odd headers
            with Image.open(path) as header:
                size = header.height, header.width
    except Image.DecompressionBombError:
        size = (PIXELS, 2)
    except Exception as problem:  # of many kinds, all about the file
        raise ValueError(
            f"{path}: no header of a picture ({type(problem).__name__}); is it a whole JPEG, PNG or WebP file?"
        ) from problem
    if size[0] * size[1] > PIXELS:
        raise ValueError(
            f"{path}: says it has more than {PIXELS:,} pixels, which is refused; make it smaller"
        )
    return size


def refuse_missing(files: Sequence[Path]) -> None:
    """See to it that all files are there.

    Raises:
        FileNotFoundError: a line for each that is not.
    """
    if missing := [f"{path} is missing" for path in files if not path.is_file()]:
        raise FileNotFoundError(
            "\n".join([*missing, f"{len(missing):,} of {len(files):,} pictures are missing"])
        )


def refuse_damaged(files: Sequence[Path]) -> None:
    """Decode each of the files.

    Raises:
        ValueError: a line for each that cannot be read.
    """
    problems = []
    for path in files:
        try:
            image_size(path)
            decode(path)
        except ValueError as problem:
            problems.append(str(problem))
    raise_all(problems)


def raise_all(problems: Sequence[str]) -> None:
    """One error for all pictures that cannot be read, if there are any."""
    if problems:
        raise ValueError(
            "\n".join(
                [
                    *problems,
                    f"{len(problems):,} pictures cannot be read; restore them, or leave them out (`exclude`)",
                ]
            )
        )


def resize_smallest_side(picture: Picture, side: int) -> Picture:
    """The smallest side becomes `side`; antialiased."""
    height, width = resized_size(picture.shape[0], picture.shape[1], side)
    if (height, width) == picture.shape[:2]:
        return picture
    channels_first = torch.from_numpy(picture.copy()).permute(2, 0, 1)[
        None
    ]  # a copy, as decoded pictures are read-only
    return (
        functional.interpolate(channels_first, (height, width), mode="bilinear", antialias=True)[0]
        .permute(1, 2, 0)
        .numpy()
    )


def resized_size(height: int, width: int, side: int) -> tuple[int, int]:
    """The size of a picture once its smallest side is `side`."""
    shortest = min(height, width)
    return round(height * side / shortest), round(width * side / shortest)


def normalise_points(
    pixels: Float32[Tensor, "n points 2"], size: Int64[Tensor, "n 1 2"]
) -> Float32[Tensor, "n points 2"]:
    """Positions in pixels, 0 at the left and upper border, as -1 to 1."""
    return pixels * 2 / size.flip(-1) - 1

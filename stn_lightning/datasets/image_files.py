"""Data sets of images in files, decoded or cached."""

from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import Float32, Int64
from torch import Tensor
from torch.nn import functional

from stn_lightning.batch import Split
from stn_lightning.datasets.decoding import PIXELS, WHITE, RGBImage, decode, raise_unreadable
from stn_lightning.datasets.files.cache import Cache
from stn_lightning.datasets.files.paths import printable
from stn_lightning.datasets.sources import Source


class ImageFileDataset(NamedTuple):
    """A split; `image[i]` reads and resizes image i."""

    image: Sequence[RGBImage]
    label: Int64[Tensor, " images"]
    names: Sequence[str]
    """files below the source's folder, for messages and predictions"""


class ImageRecord(NamedTuple):
    """One image: file below the folder, label, split."""

    name: str
    label: int
    split: Split


class ImageFileSource(Source):
    """A data set of images in files.

    Args:
        folder: folder of the images.
        side: smallest side of an image as it is read, in pixels.
        cache: folder for resized images; None decodes them each time they are read.
        background: red, green and blue of what shows through transparent pixels.

    Raises:
        ValueError: if `side` is less than 1, or `background` is no colour.
    """

    def __init__(
        self,
        folder: Path,
        side: int,
        cache: Path | None,
        background: tuple[int, int, int] = WHITE,
    ) -> None:
        if side < 1:
            raise ValueError(f"side {side}; give 1 or more pixels")
        if not all(0 <= value <= 255 for value in background):
            raise ValueError(f"background {background}; give red, green and blue from 0 to 255")
        self.folder, self.side, self.cache, self.background = folder, side, cache, background

    @abstractmethod
    def records(self) -> Sequence[ImageRecord]:
        """Return all images in a fixed order."""

    def prepare(self) -> None:
        files = self.files(self.records())
        refuse_missing(files)
        if self.cache is not None:
            self._cached(files).build()

    def check(self) -> str:
        files = self.files(self.records())
        if self.cache is None:
            refuse_damaged(files, self.background)
            how = "not cached"
        else:
            self._cached(files).check()
            how = f"cached in {self.cache}"
        return (
            f"{super().check()}; {len(self.class_names)} classes; smallest side {self.side}, {how}"
        )

    def load(self, split: Split) -> ImageFileDataset:
        records = self.records()
        files = self.files(records)
        chosen = [i for i, record in enumerate(records) if record.split == split]
        if self.cache is None:
            image: Sequence[RGBImage] = DecodedImages(
                [files[i] for i in chosen], self.side, self.background
            )
        else:
            cached = self._cached(files).open()
            image = [cached[i] for i in chosen]
        labels = torch.tensor([records[i].label for i in chosen], dtype=torch.int64)
        return ImageFileDataset(image, labels, [records[i].name for i in chosen])

    def files(self, records: Sequence[ImageRecord]) -> list[Path]:
        """Return the files of images."""
        return [self.folder / record.name for record in records]

    def _cached(self, files: Sequence[Path]) -> Cache:
        assert self.cache is not None
        return Cache(self.cache, files, self.side, self.read, self.background)

    def read(self, file: Path) -> RGBImage:
        """Decode and resize one image."""
        return read_resized(file, self.side, self.background)


class DecodedImages(Sequence[RGBImage]):
    """Images that are decoded each time they are read.

    Args:
        files: the images' files.
        side: smallest side that they are resized to, in pixels.
        background: colour of what shows through transparent pixels.
    """

    def __init__(
        self, files: Sequence[Path], side: int, background: tuple[int, int, int] = WHITE
    ) -> None:
        self.files, self.side, self.background = files, side, background

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, i: int) -> RGBImage:  # type: ignore[override]  # no slices
        return read_resized(self.files[i], self.side, self.background)


def read_resized(file: Path, side: int, background: tuple[int, int, int] = WHITE) -> RGBImage:
    """Decode an image and resize its smallest side.

    Raises:
        ValueError: with the file's name, if it cannot be read, or would become too large.
    """
    image = decode(file, background)
    try:
        return resize_smallest_side(image, side)
    except ValueError as problem:
        raise ValueError(f"{printable(file)}: {problem}") from problem


def resize_smallest_side(image: RGBImage, side: int) -> RGBImage:
    """Resize an image's smallest side; antialiased.

    Raises:
        ValueError: if it would have more than `PIXELS` pixels, as very long images do.
    """
    height, width = resized_size(image.shape[0], image.shape[1], side)
    if (height, width) == image.shape[:2]:
        return image
    if height * width > PIXELS:
        raise ValueError(
            f"{image.shape[1]} x {image.shape[0]} pixels would become {width:,} x {height:,}, "
            f"more than {PIXELS:,}; crop it, or give a smaller side"
        )
    # a copy, as decoded images are read-only
    channels_first = torch.from_numpy(image.copy()).permute(2, 0, 1)[None]
    resized = functional.interpolate(
        channels_first, (height, width), mode="bilinear", antialias=True
    )[0]
    return resized.permute(1, 2, 0).numpy()


def resized_size(height: int, width: int, side: int) -> tuple[int, int]:
    """Return height and width after `resize_smallest_side`."""
    shortest = min(height, width)
    return round(height * side / shortest), round(width * side / shortest)


def refuse_missing(files: Sequence[Path]) -> None:
    """Check that all files are there.

    Raises:
        FileNotFoundError: with a line for each that is missing.
    """
    if missing := [f"{printable(path)} is missing" for path in files if not path.is_file()]:
        count = f"{len(missing):,} of {len(files):,} images are missing"
        raise FileNotFoundError("\n".join([*missing, count]))


def refuse_damaged(files: Sequence[Path], background: tuple[int, int, int] = WHITE) -> None:
    """Decode all files.

    Raises:
        ValueError: with a line for each that cannot be read.
    """
    raise_unreadable([problem for path in files if (problem := problem_of(path, background))])


def problem_of(path: Path, background: tuple[int, int, int] = WHITE) -> str:
    """Return why a file cannot be read, or nothing."""
    try:
        decode(path, background)
    except ValueError as problem:
        return str(problem)
    return ""


def normalise_points(
    pixels: Float32[Tensor, "n points 2"], size: Int64[Tensor, "n 1 2"]
) -> Float32[Tensor, "n points 2"]:
    """Map points from pixels to -1 to 1.

    Pixel 0 is the left and upper border.
    """
    return pixels * 2 / size.flip(-1) - 1

"""Data sets of images in files, decoded or cached."""

from abc import abstractmethod
from collections.abc import Callable, Sequence
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
from stn_lightning.runtime.lists import first_few


class ImageFileDataset(NamedTuple):
    """A split; `image[i]` reads and resizes image i."""

    image: Sequence[RGBImage]
    label: Int64[Tensor, " images"]
    names: Sequence[str]
    """paths relative to the source's folder, for messages"""


class ImageRecord(NamedTuple):
    """Path relative to the folder, label and split."""

    name: str
    label: int
    split: Split


class ImageFileSource(Source):
    """A data set of images in files.

    Args:
        folder: folder of the images.
        side: images are resized so that their smaller side has this many pixels.
        cache: folder for resized images; None decodes them each time they are read.
        background: colour behind transparent pixels, as (red, green, blue) from 0 to 255.

    Raises:
        ValueError: `side` is less than 1, or `background` is no colour.
    """

    where = ""
    """What paths are relative to, for messages about missing images."""

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
        refuse_missing(files, self.where)
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
            image: Sequence[RGBImage] = DecodedImages([files[i] for i in chosen], self.read)
        else:
            cached = self._cached(files).open()
            image = [cached[i] for i in chosen]
        labels = torch.tensor([records[i].label for i in chosen], dtype=torch.int64)
        return ImageFileDataset(image, labels, [records[i].name for i in chosen])

    def files(self, records: Sequence[ImageRecord]) -> list[Path]:
        """Return the paths of images."""
        return [self.folder / record.name for record in records]

    def _cached(self, files: Sequence[Path]) -> Cache:
        assert self.cache is not None
        return Cache(self.cache, files, self.side, self.read, self.background)

    def read(self, file: Path) -> RGBImage:
        """Decode and resize one image.

        Raises:
            ValueError: it cannot be read, or would become too large; the message names the file.
        """
        image = decode(file, self.background)
        try:
            return resize_smallest_side(image, self.side)
        except ValueError as problem:
            raise ValueError(f"{printable(file)}: {problem}") from problem


class DecodedImages(Sequence[RGBImage]):
    """Images that are decoded each time they are read.

    Args:
        files: paths of the images.
        read: function that decodes and resizes an image.
    """

    def __init__(self, files: Sequence[Path], read: Callable[[Path], RGBImage]) -> None:
        self.files, self.read = files, read

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, i: int) -> RGBImage:  # type: ignore[override]  # no slices
        return self.read(self.files[i])


def resize_smallest_side(image: RGBImage, side: int) -> RGBImage:
    """Resize an image's smaller side to `side`; antialiased.

    Raises:
        ValueError: the result would have more than `PIXELS` pixels, as of very long images.
    """
    height, width = resized_size(image.shape[0], image.shape[1], side)
    if (height, width) == image.shape[:2]:
        return image
    if height * width > PIXELS:
        raise ValueError(
            f"{image.shape[1]} x {image.shape[0]} pixels would become {width:,} x {height:,}, "
            f"more than {PIXELS:,}; crop it, or give a smaller side"
        )
    # a copy, because decoded images are read-only
    channels_first = torch.from_numpy(image.copy()).permute(2, 0, 1)[None]
    resized = functional.interpolate(
        channels_first, (height, width), mode="bilinear", antialias=True
    )[0]
    return resized.permute(1, 2, 0).numpy()


def resized_size(height: int, width: int, side: int) -> tuple[int, int]:
    """Return height and width after `resize_smallest_side`."""
    shortest = min(height, width)
    return round(height * side / shortest), round(width * side / shortest)


def refuse_missing(files: Sequence[Path], where: str = "") -> None:
    """Check that all files exist.

    Args:
        files: paths of the images.
        where: what the paths are relative to, for the message.

    Raises:
        FileNotFoundError: with the number of missing files, and the first of them.
    """
    if missing := [printable(path) for path in files if not path.is_file()]:
        count = f"{len(missing):,} of {len(files):,} images are missing"
        named = ", ".join(first_few(missing))
        raise FileNotFoundError(f"{count}: {named}{where and f'; {where}'}")


def refuse_damaged(files: Sequence[Path], background: tuple[int, int, int] = WHITE) -> None:
    """Check that all files can be decoded.

    Raises:
        ValueError: with the number of files that cannot be read, and lines for the first ones.
    """
    raise_unreadable([problem for path in files if (problem := problem_of(path, background))])


def problem_of(path: Path, background: tuple[int, int, int] = WHITE) -> str:
    """Return a file's problem, or ""."""
    try:
        decode(path, background)
    except ValueError as problem:
        return str(problem)
    return ""


def normalise_points(
    pixels: Float32[Tensor, "n points 2"], size: Int64[Tensor, "n 1 2"]
) -> Float32[Tensor, "n points 2"]:
    """Convert points from pixels to the range -1 to 1.

    (0, 0) is the image's upper left corner.
    """
    return pixels * 2 / size.flip(-1) - 1

"""CUB-200-2011: 11,788 photographs of 200 species of birds, in the original layout.

Reference:
    Wah, Branson, Welinder, Perona and Belongie 2011, "The Caltech-UCSD Birds-200-2011 Dataset"; for
    non-commercial research and education.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import torch

from stn_lightning.batch import Split
from stn_lightning.datasets.files.archives import unpack
from stn_lightning.datasets.files.cache import Cache
from stn_lightning.datasets.files.download import File, fetch
from stn_lightning.datasets.files.text_tables import (
    inside,
    keyed,
    number,
    rows,
    same_keys,
    truth,
    whole_number,
)
from stn_lightning.datasets.image_files import (
    DecodedImages,
    ImageFileDataset,
    ImageFileSource,
    Picture,
    image_size,
    normalise_points,
    refuse_damaged,
    refuse_missing,
    resized_size,
)
from stn_lightning.datasets.mnist import data_root
from stn_lightning.datasets.sources import Annotations

MIRRORS = ("https://data.caltech.edu/records/65de6-vp158/files/",)
ARCHIVE = File(
    "CUB_200_2011.tgz",
    "0c685df5597a8b24909f6a7c9db6d11e008733779a671760afef78feb49bf081",
    1_150_585_339,
)
"""The checksum as TensorFlow Datasets and others publish it; we have not had the archive in our
hands.
"""
SIZE = 4 << 30
"""Bytes that the archive may unfold into; it holds 1.2 GB."""


class CUB(ImageFileSource):
    """200 species; the official 5,994 training pictures, some of them for validation, and 5,794 for
    the test.

    Args:
        root: folder that holds `CUB_200_2011` (or the archive); `cub` in the data folder when left
            out. Downloaded where missing.
        side: smallest side of a picture, in pixels; the paper's is 256 for crops of 224, and we
            take 512 for crops of 448 (?).
        cache: folder for resized pictures, 3 GB at 256 and 12 GB at 512; null decodes them each
            time they are read.
        first_classes: take this many of the 200 classes.
        validation: training pictures of each class, the last ones, that serve for validation; the
            paper names no such split (?).
        exclude: a file with the id (`images.txt`) of a picture on each line, to be left out; for
            example those that ImageNet has too.

    Raises:
        ValueError: where a number makes no sense; in `load` and `check`, names file and row of what
            is wrong.
    """

    def __init__(
        self,
        root: str | None = None,
        side: int = 256,
        cache: str | None = "data/cache",
        first_classes: int = 200,
        validation: int = 3,
        exclude: str | None = None,
    ) -> None:
        if side < 1 or validation < 1 or not 1 <= first_classes <= 200:
            raise ValueError(
                f"side {side}, validation {validation}, first_classes {first_classes}; the first two are 1 or more, the last 1 to 200"
            )
        self.root = Path(root) if root is not None else data_root() / "cub"
        self.folder = self.root / "CUB_200_2011"
        self.side, self.first_classes, self.validation = side, first_classes, validation
        self.cache = Path(cache) / f"cub-{side}" if cache is not None else None
        self.exclude = Path(exclude) if exclude is not None else None

    @property
    def class_names(self) -> tuple[str, ...]:  # type: ignore[override]  # read when asked for
        """Species, without their number."""
        named = self._names("classes.txt")[: self.first_classes]
        return tuple(name.partition(".")[2].replace("_", " ") or name for name in named)

    @property
    def part_names(self) -> tuple[str, ...]:  # type: ignore[override]  # read when asked for
        """The 15 parts: back, beak, belly, ..."""
        return tuple(self._names("parts/parts.txt"))

    def prepare(self) -> None:
        if not self.folder.is_dir():
            fetch(ARCHIVE, self.root, MIRRORS)
            unpack(
                self.root / ARCHIVE.name,
                self.folder,
                members=20_000,
                size=SIZE,
                inside=self.folder.name,
            )
        files = self._files(self._pictures())
        refuse_missing(files)
        if self.cache is not None:
            Cache(self.cache, files, self.side).build()

    def check(self) -> str:
        files = self._files(self._pictures())
        if self.cache is None:
            refuse_damaged(files)
        else:
            Cache(self.cache, files, self.side).check()
        splits: tuple[Split, ...] = ("train", "val", "test")
        visible = sum(int(self.annotations(split).parts[..., 2].sum()) for split in splits)
        how = "not cached" if self.cache is None else f"cached in {self.cache}"
        marked = f"{len(self.class_names)} classes, {len(files):,} boxes, {visible:,} visible parts"
        return f"{super().check()}; {marked}; smallest side {self.side}, {how}"

    def load(self, split: Split) -> ImageFileDataset:
        pictures = self._pictures()
        chosen = [i for i, picture in enumerate(pictures) if picture.split == split]
        files = self._files(pictures)
        if self.cache is None:
            image: Sequence[Picture] = DecodedImages([files[i] for i in chosen], self.side)
        else:
            cached = Cache(self.cache, files, self.side).open()
            image = [cached[i] for i in chosen]
        return ImageFileDataset(
            image,
            torch.tensor([pictures[i].label for i in chosen]),
            [pictures[i].name for i in chosen],
        )

    def annotations(self, split: Split) -> Annotations:
        chosen = [picture for picture in self._pictures() if picture.split == split]
        boxes = keyed(self.folder / "bounding_boxes.txt", number, number, number, number)
        parts = self._parts()
        for picture in chosen:
            if picture.key not in boxes or picture.key not in parts:
                raise ValueError(
                    f"{self.folder}: picture {picture.key} has no row in bounding_boxes.txt, or none in parts/part_locs.txt"
                )
        original = torch.tensor([image_size(file) for file in self._files(chosen)])  # (N, 2)
        x, y, width, height = torch.tensor([boxes[picture.key] for picture in chosen]).unbind(1)
        corners = torch.stack([x, y, x + width, y + height], 1).unflatten(1, (2, 2))
        marked = torch.tensor([parts[picture.key] for picture in chosen])  # (N, 15, 3)
        return Annotations(
            torch.cat([normalise_points(marked[..., :2], original[:, None]), marked[..., 2:]], 2),
            normalise_points(corners, original[:, None]).flatten(1),
            torch.tensor([resized_size(int(h), int(w), self.side) for h, w in original]),
        )

    def _pictures(self) -> list["_Picture"]:
        """All that are wanted, in the order of `images.txt`."""
        classes = self._names("classes.txt")
        path = self.folder / "images.txt"
        names = keyed(path, inside)
        labels = keyed(self.folder / "image_class_labels.txt", whole_number)
        training = keyed(self.folder / "train_test_split.txt", truth)
        same_keys(path, names, self.folder / "image_class_labels.txt", labels)
        same_keys(path, names, self.folder / "train_test_split.txt", training)
        if wrong := [key for key in names if not 1 <= labels[key] <= len(classes)]:
            raise ValueError(
                f"{self.folder / 'image_class_labels.txt'}: picture {wrong[0]} has class {labels[wrong[0]]}, of {len(classes)}"
            )
        excluded = (
            {key for _, (key,) in rows(self.exclude, whole_number)} if self.exclude else set()
        )
        if unknown := excluded - names.keys():
            raise ValueError(f"{self.exclude}: {min(unknown)} is no picture of {path}")
        kept = [key for key in names if key not in excluded and labels[key] <= self.first_classes]
        to_learn: dict[int, list[int]] = defaultdict(list)
        for key in kept:
            if training[key]:
                to_learn[labels[key]].append(key)
        validation = {key for keys in to_learn.values() for key in keys[-self.validation :]}
        splits: dict[int, Split] = {
            key: "val" if key in validation else "train" if training[key] else "test"
            for key in kept
        }
        return [_Picture(key, names[key], labels[key] - 1, splits[key]) for key in kept]

    def _files(self, pictures: Iterable["_Picture"]) -> list[Path]:
        return [self.folder / "images" / picture.name for picture in pictures]

    def _names(self, file: str) -> list[str]:
        """Of things that are numbered from 1 on."""
        path = self.folder / file
        named = keyed(path, str)
        if list(named) != list(range(1, len(named) + 1)):
            raise ValueError(f"{path}: rows are not numbered 1 to {len(named)}")
        return list(named.values())

    def _parts(self) -> dict[int, list[tuple[float, float, float]]]:
        """(x, y, visible) of each part, by picture."""
        path, parts = self.folder / "parts/part_locs.txt", len(self.part_names)
        found: dict[int, list[tuple[float, float, float]]] = defaultdict(list)
        for row, (key, part, x, y, visible) in rows(
            path, whole_number, whole_number, number, number, truth
        ):
            if part != len(found[key]) + 1 or part > parts:
                raise ValueError(
                    f"{path}: row {row}: part {part} of picture {key}; each picture has 1 to {parts}, in order"
                )
            found[key].append((x, y, float(visible)))
        if short := [key for key, places in found.items() if len(places) < parts]:
            raise ValueError(
                f"{path}: picture {short[0]} has {len(found[short[0]])} of {parts} parts"
            )
        return found


class _Picture(NamedTuple):
    key: int
    name: str
    label: int
    split: Split

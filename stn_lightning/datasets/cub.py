"""CUB-200-2011: 200 species of birds, in the original layout.

Reference:
    Wah, Branson, Welinder, Perona and Belongie 2011, "The Caltech-UCSD Birds-200-2011 Dataset"; for
    non-commercial research and education.
"""

from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch

from stn_lightning.batch import Split
from stn_lightning.datasets.decoding import image_size
from stn_lightning.datasets.files.archives import unpack
from stn_lightning.datasets.files.download import File, fetch
from stn_lightning.datasets.files.paths import contained_path, data_root
from stn_lightning.datasets.files.text_tables import (
    keyed,
    number,
    rows,
    same_keys,
    truth,
    whole_number,
)
from stn_lightning.datasets.image_files import (
    ImageFileSource,
    ImageRecord,
    normalise_points,
    resized_size,
)
from stn_lightning.datasets.sources import SPLITS, Annotations

MIRRORS = ("https://data.caltech.edu/records/65de6-vp158/files/",)
ARCHIVE = File(
    "CUB_200_2011.tgz",
    "0c685df5597a8b24909f6a7c9db6d11e008733779a671760afef78feb49bf081",
    1_150_585_339,
)
"""The checksum is that published by TensorFlow Datasets and others. It has not been compared with
the archive here.
"""
SIZE = 4 << 30
"""Largest size of the unpacked archive, in bytes; it has 1.2 GB."""


class CUB(ImageFileSource):
    """11,788 images of 200 species of birds.

    There are 5,994 official training images, some of which are used for validation, and 5,794 test
    images.

    Args:
        root: folder of `CUB_200_2011`, or of the archive, which is downloaded if missing; `cub` in
            the data folder when left out.
        side: images are resized so that their smaller side has this many pixels; 256 in the paper,
            for crops of 224, and 512 here for crops of 448 (?).
        cache: folder for resized images, 3 GB at 256 and 12 GB at 512; None decodes them each
            time they are read.
        first_classes: use only the first so many of the 200 classes.
        validation: the last so many training images of each class are used for validation; the
            paper mentions no validation split (?).
        exclude: a file with the id (in `images.txt`) of an image to leave out on each line, for
            example of those that are in ImageNet, too.

    Raises:
        ValueError: a number is out of its range; in `load` and `check`, a file of the data set has
            a mistake, and the message names file and row.
    """

    empty_split_advice = "raise first_classes, or exclude fewer images"
    part_groups = MappingProxyType(
        {
            "head": ("beak", "crown", "forehead", "left eye", "nape", "right eye", "throat"),
            "body": (
                *("back", "belly", "breast", "left leg", "left wing"),
                *("right leg", "right wing", "tail"),
            ),
        }
    )

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
                f"side {side}, validation {validation}, first_classes {first_classes}; give 1 or "
                "more for the first two, and 1 to 200 classes"
            )
        self.root = Path(root) if root is not None else data_root() / "cub"
        self.tables = self.root / "CUB_200_2011"
        cached = Path(cache) / f"cub-{side}" if cache is not None else None
        super().__init__(self.tables / "images", side, cached)
        self.first_classes, self.validation = first_classes, validation
        self.exclude = Path(exclude) if exclude is not None else None

    @property
    def class_names(self) -> tuple[str, ...]:  # type: ignore[override]  # read when asked for
        """Species, without their number."""
        named = self._names("classes.txt")[: self.first_classes]
        return tuple(name.partition(".")[2].replace("_", " ") or name for name in named)

    @property
    def class_groups(self) -> tuple[str, ...]:  # type: ignore[override]  # likewise
        """The last word of each species: Warbler, Sparrow, ..."""
        return tuple(name.split()[-1] for name in self.class_names)

    @property
    def part_names(self) -> tuple[str, ...]:  # type: ignore[override]  # read when asked for
        """The 15 parts: back, beak, belly, ..."""
        return tuple(self._names("parts/parts.txt"))

    def prepare(self) -> None:
        if not self.tables.is_dir():
            fetch(ARCHIVE, self.root, MIRRORS)
            archive, inside = self.root / ARCHIVE.name, self.tables.name
            unpack(archive, self.tables, members=20_000, size=SIZE, inside=inside)
        super().prepare()

    def check(self) -> str:
        summary = super().check()
        visible = sum(int(self.annotations(split).parts[..., 2].sum()) for split in SPLITS)
        return f"{summary}; {len(self._records()):,} boxes, {visible:,} visible parts"

    def records(self) -> list[ImageRecord]:
        return list(self._records().values())

    def annotations(self, split: Split) -> Annotations:
        chosen = {key: image for key, image in self._records().items() if image.split == split}
        boxes = keyed(self.tables / "bounding_boxes.txt", number, number, number, number)
        parts = self._parts()
        for key in chosen:
            if key not in boxes or key not in parts:
                raise ValueError(
                    f"{self.tables}: image {key} has no row in bounding_boxes.txt, or none in "
                    "parts/part_locs.txt"
                )
        files = self.files(list(chosen.values()))
        original = torch.tensor([image_size(file) for file in files])  # (N, 2)
        x, y, width, height = torch.tensor([boxes[key] for key in chosen]).unbind(1)
        corners = torch.stack([x, y, x + width, y + height], 1).unflatten(1, (2, 2))
        annotated = torch.tensor([parts[key] for key in chosen])  # (N, 15, 3)
        points = normalise_points(annotated[..., :2], original[:, None])
        return Annotations(
            torch.cat([points, annotated[..., 2:]], 2),
            normalise_points(corners, original[:, None]).flatten(1),
            torch.tensor([resized_size(int(h), int(w), self.side) for h, w in original]),
        )

    def _records(self) -> dict[int, ImageRecord]:
        """Return the images to use, by id, in order."""
        classes = self._names("classes.txt")
        names = self._table("images", contained_path)
        labels = self._table("image_class_labels", whole_number)
        training = self._table("train_test_split", truth)
        for file, table in (("image_class_labels", labels), ("train_test_split", training)):
            same_keys(self.tables / "images.txt", names, self.tables / f"{file}.txt", table)
        if wrong := [key for key in names if not 1 <= labels[key] <= len(classes)]:
            raise ValueError(
                f"{self.tables / 'image_class_labels.txt'}: image {wrong[0]} has class "
                f"{labels[wrong[0]]}, of {len(classes)}"
            )
        excluded = self._excluded(names)
        kept = [key for key in names if key not in excluded and labels[key] <= self.first_classes]
        of_class: dict[int, list[int]] = defaultdict(list)
        for key in kept:
            if training[key]:
                of_class[labels[key]].append(key)
        validation = {key for keys in of_class.values() for key in keys[-self.validation :]}
        splits: dict[int, Split] = {
            key: "val" if key in validation else "train" if training[key] else "test"
            for key in kept
        }
        return {key: ImageRecord(names[key], labels[key] - 1, splits[key]) for key in kept}

    def _table(self, name: str, column: Callable[[str], Any]) -> dict[int, Any]:
        return keyed(self.tables / f"{name}.txt", column)

    def _excluded(self, names: dict[int, str]) -> set[int]:
        if self.exclude is None:
            return set()
        excluded = {key for _, (key,) in rows(self.exclude, whole_number)}
        if unknown := excluded - names.keys():
            raise ValueError(
                f"{self.exclude}: {min(unknown)} is no image of {self.tables / 'images.txt'}"
            )
        return excluded

    def _names(self, file: str) -> list[str]:
        """Read a table of names, numbered from 1."""
        path = self.tables / file
        named = keyed(path, str)
        if list(named) != list(range(1, len(named) + 1)):
            raise ValueError(f"{path}: rows are not numbered 1 to {len(named)}")
        return list(named.values())

    def _parts(self) -> dict[int, list[tuple[float, float, float]]]:
        """Return (x, y, visible) of each image's parts."""
        path, parts = self.tables / "parts/part_locs.txt", len(self.part_names)
        found: dict[int, list[tuple[float, float, float]]] = defaultdict(list)
        for row, (key, part, x, y, visible) in rows(
            path, whole_number, whole_number, number, number, truth
        ):
            if part != len(found[key]) + 1 or part > parts:
                raise ValueError(
                    f"{path}: row {row}: part {part} of image {key}; each image has 1 to {parts}, "
                    "in order"
                )
            found[key].append((x, y, float(visible)))
        if short := [key for key, places in found.items() if len(places) < parts]:
            raise ValueError(
                f"{path}: image {short[0]} has {len(found[short[0]])} of {parts} parts"
            )
        return found

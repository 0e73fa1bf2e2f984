"""Anyone's photographs: one folder a class, or a table."""

import csv
import hashlib
from pathlib import Path
from typing import NamedTuple

import torch

from stn_lightning.batch import Split
from stn_lightning.datasets.files.cache import Cache
from stn_lightning.datasets.files.text_tables import inside
from stn_lightning.datasets.image_files import (
    DecodedImages,
    ImageFileDataset,
    ImageFileSource,
    refuse_damaged,
    refuse_missing,
)

ENDINGS = {".jpg", ".jpeg", ".png", ".webp"}


class ImageFolder(ImageFileSource):
    """Photographs in `root/<class>/`, or those that a table names.

    Where the table does not say which split a picture belongs to, its name decides: it stays where
    it is when others are added.

    Args:
        root: the folder.
        table: a CSV file with the columns `file` (below `root`) and `class`, and, if wanted,
            `split` (train, val or test).
        side: smallest side of a picture as it is read, in pixels.
        cache: folder for resized pictures; null decodes them each time they are read.
        validation: part of the pictures.
        test: part of the pictures.

    Raises:
        ValueError: where there are no pictures, or a part makes no sense; names file and row of
            what is wrong in a table.
    """

    def __init__(
        self,
        root: str,
        table: str | None = None,
        side: int = 256,
        cache: str | None = None,
        validation: float = 0.1,
        test: float = 0.2,
    ) -> None:
        if side < 1 or not (validation > 0 and test > 0 and validation + test < 1):
            raise ValueError(
                f"side {side}, validation {validation}, test {test}; a side of 1 or more, and parts that leave something to train on"
            )
        self.root, self.table, self.side = (
            Path(root),
            Path(table) if table is not None else None,
            side,
        )
        self.cache = Path(cache) / f"{self.root.name}-{side}" if cache is not None else None
        self.validation, self.test = validation, test

    @property
    def class_names(self) -> tuple[str, ...]:  # type: ignore[override]  # read when asked for
        """Names of the classes, in the order of the alphabet."""
        return tuple(sorted({picture.label for picture in self._pictures()}))

    def prepare(self) -> None:
        files = self._files()
        refuse_missing(files)
        if self.cache is not None:
            Cache(self.cache, files, self.side).build()

    def check(self) -> str:
        if self.cache is None:
            refuse_damaged(self._files())
        else:
            Cache(self.cache, self._files(), self.side).check()
        return f"{super().check()}; {len(self.class_names)} classes"

    def load(self, split: Split) -> ImageFileDataset:
        pictures, classes = self._pictures(), self.class_names
        chosen = [i for i, picture in enumerate(pictures) if picture.split == split]
        files = self._files()
        if self.cache is None:
            image = DecodedImages([files[i] for i in chosen], self.side)
        else:
            cached = Cache(self.cache, files, self.side).open()
            image = [cached[i] for i in chosen]  # type: ignore[assignment]
        labels = torch.tensor([classes.index(pictures[i].label) for i in chosen], dtype=torch.int64)
        return ImageFileDataset(image, labels, [pictures[i].name for i in chosen])

    def _files(self) -> list[Path]:
        return [self.root / picture.name for picture in self._pictures()]

    def _pictures(self) -> list["_Picture"]:
        if self.table is not None:
            found = self._in_table(self.table)
        else:
            names = [str(path.relative_to(self.root)) for path in images_below(self.root)]
            found = [
                _Picture(name, name.partition("/")[0], self._split(name))
                for name in names
                if "/" in name
            ]
        if not found:
            raise ValueError(
                f"{self.table or self.root}: no pictures; a folder holds one folder a class, a table the columns file and class"
            )
        return found

    def _in_table(self, table: Path) -> list["_Picture"]:
        try:
            lines = list(csv.reader(table.read_text().splitlines(), strict=True))
        except (OSError, UnicodeDecodeError, csv.Error) as problem:
            raise ValueError(
                f"{table}: cannot be read as CSV ({str(problem).splitlines()[0]})"
            ) from problem
        columns = lines[0] if lines else []
        if not {"file", "class"} <= set(columns):
            raise ValueError(
                f"{table}: row 1: columns are {', '.join(columns) or 'missing'}; file and class are needed"
            )
        found = []
        for row, values in enumerate(lines[1:], 2):
            if len(values) != len(columns):
                raise ValueError(
                    f"{table}: row {row}: {len(values)} columns, expected {len(columns)}"
                )
            named = dict(zip(columns, values, strict=True))
            try:
                name = inside(named["file"])
            except ValueError as problem:
                raise ValueError(f"{table}: row {row}: {problem}") from problem
            splits: dict[str, Split] = {
                "train": "train",
                "val": "val",
                "test": "test",
                "": self._split(name),
            }
            if not named["class"] or named.get("split", "") not in splits:
                raise ValueError(
                    f"{table}: row {row}: a class, and a split of train, val, test or nothing, are needed"
                )
            found.append(_Picture(name, named["class"], splits[named.get("split", "")]))
        return found

    def _split(self, name: str) -> Split:
        place = int.from_bytes(hashlib.sha256(name.encode()).digest()[:6], "big") / 2**48
        return (
            "test"
            if place < self.test
            else "val"
            if place < self.test + self.validation
            else "train"
        )


class _Picture(NamedTuple):
    name: str
    label: str
    split: Split


def images_below(folder: Path) -> list[Path]:
    """JPEG, PNG and WebP files in a folder and the folders in it, in the order of their names."""
    return sorted(path for path in folder.rglob("*") if path.suffix.lower() in ENDINGS)

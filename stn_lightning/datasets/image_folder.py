"""Your own images, in folders or a table."""

import csv
import hashlib
import io
import os
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from stn_lightning.batch import Split
from stn_lightning.datasets.decoding import RESTORE, SUFFIXES, WHITE, raise_unreadable
from stn_lightning.datasets.files.paths import contained_path, printable
from stn_lightning.datasets.image_files import ImageFileSource, ImageRecord, problem_of

CURE = f"{RESTORE} by --data.init_args.skip_unreadable=true"
"""Advice about images that cannot be read."""


class ImageFolder(ImageFileSource):
    """Images in `root/<class>/`, or those listed in a table.

    JPEG, PNG, WebP, BMP, GIF and TIFF files are read. In folders, hidden files are skipped, links
    are followed, and `prepare` counts other files. If no table gives the split of an image, it
    depends only on the image's path. So it does not change when images are added.

    Args:
        root: folder of the images.
        table: a CSV file with the columns `file` (relative to `root`), `class` and, optionally,
            `split` (train, val or test).
        side: images are resized so that their smaller side has this many pixels.
        cache: folder for resized images; None decodes them each time they are read.
        validation: share of the images that are used for validation.
        test: share of the images that are used for the test.
        background: colour behind transparent pixels, as (red, green, blue) from 0 to 255.
        skip_unreadable: whether to leave out images that cannot be read, instead of raising an
            error. Each process then decodes all images once.

    Raises:
        ValueError: a number is out of its range; when images are listed, there are none, a class
            has none, or a row of the table is wrong.
    """

    def __init__(
        self,
        root: str,
        table: str | None = None,
        side: int = 256,
        cache: str | None = None,
        validation: float = 0.1,
        test: float = 0.2,
        background: tuple[int, int, int] = WHITE,
        skip_unreadable: bool = False,
    ) -> None:
        if not (validation > 0 and test > 0 and validation + test < 1):
            raise ValueError(
                f"validation {validation}, test {test}; give shares above 0 whose sum is below 1"
            )
        folder = Path(root)
        name = f"{folder.resolve().name}-{side}"
        super().__init__(
            folder, side, Path(cache) / name if cache is not None else None, background
        )
        self.table = Path(table) if table is not None else None
        if self.table is not None:
            self.where = f"paths in {self.table} are relative to `folder`, {printable(folder)}"
        self.validation, self.test = validation, test
        self.skip_unreadable = skip_unreadable
        self._unreadable: dict[str, str] | None = None
        self.empty_split_advice = (
            f"add images to {self.folder}, or give larger shares `validation` and `test`"
            if self.table is None
            else f"name it in the column `split` of {self.table}, or add images"
        )

    @property
    def class_names(self) -> tuple[str, ...]:  # type: ignore[override]  # read when asked for
        """Names of the classes, in alphabetical order."""
        return tuple(sorted({image.label for image in self._images()}))

    def prepare(self) -> None:
        """Fill the cache; report images that cannot be read.

        Raises:
            ValueError: images cannot be read, and they are not skipped; the first ones are named.
        """
        super().prepare()
        if self.cache is None and not self.skip_unreadable:
            raise_unreadable([*self._find_unreadable(self._images()).values()], CURE)
        for note in filter(None, (self._skipped(), self._count_unreadable())):
            print(note, file=sys.stderr)

    def check(self) -> str:
        notes = filter(None, (self._skipped(), self._count_unreadable()))
        return "; ".join([super().check(), *notes])

    def records(self) -> list[ImageRecord]:
        images = self._images()
        labels = {name: i for i, name in enumerate(sorted({image.label for image in images}))}
        return [ImageRecord(image.name, labels[image.label], image.split) for image in images]

    def _images(self) -> list["_Image"]:
        images = self._from_table(self.table) if self.table is not None else self._from_folders()
        if self.skip_unreadable:
            if self._unreadable is None:
                self._unreadable = self._find_unreadable(images)
            images = [image for image in images if image.name not in self._unreadable]
        if not images:
            raise ValueError(
                f"{self.table or self.folder}: no images; give a folder with one folder for each "
                "class, or a table with the columns file and class"
            )
        return images

    def _find_unreadable(self, images: list["_Image"]) -> dict[str, str]:
        """Return the unreadable files and the reasons."""
        found = {}
        for image in images:
            if problem := problem_of(self.folder / image.name, self.background):
                found[image.name] = problem
        return found

    def _count_unreadable(self) -> str:
        """Count the unreadable images and name the first one."""
        if not self._unreadable:
            return ""
        first = next(iter(self._unreadable.values()))
        return (
            f"{printable(self.folder)}: skipped {len(self._unreadable):,} images that cannot be "
            f"read; the first: {first}"
        )

    def _from_folders(self) -> list["_Image"]:
        images = []
        for folder in self._class_folders():
            names = [name for name in files_below(self.folder, folder) if is_image(name)]
            if not names:
                raise ValueError(
                    f"{printable(self.folder / folder)}: no images, so its class would be empty; "
                    "add JPEG, PNG, WebP, BMP, GIF or TIFF files, or remove the folder"
                )
            images += [_Image(name, printable(folder), self._split(name)) for name in names]
        return images

    def _class_folders(self) -> list[str]:
        try:
            with os.scandir(self.folder) as entries:
                names = [entry.name for entry in entries if entry.is_dir()]
        except OSError as problem:
            raise ValueError(
                f"{printable(self.folder)}: {problem.strerror}; give a folder with one folder for "
                "each class"
            ) from problem
        return sorted((name for name in names if not name.startswith(".")), key=os.fsencode)

    def _skipped(self) -> str:
        """Describe unused files in one line."""
        if self.table is not None:
            return ""
        names = files_below(self.folder)
        others = [name for name in names if not is_image(name)]
        loose = [name for name in names if "/" not in name and is_image(name)]
        parts = []
        if others:
            kinds = Counter(Path(name).suffix or "without suffix" for name in others)
            named = ", ".join(
                f"{count:,} {printable(kind)}" for kind, count in kinds.most_common(5)
            )
            parts.append(f"{len(others):,} files that are no images ({named}; {_first(others)})")
        if loose:
            parts.append(f"{len(loose):,} images in no class's folder ({_first(loose)})")
        return f"{printable(self.folder)}: skipped {' and '.join(parts)}" if parts else ""

    def _from_table(self, table: Path) -> list["_Image"]:
        rows = _table_rows(table)
        number, columns = next(rows, (1, []))
        columns = [column.strip() for column in columns]
        if not {"file", "class"} <= set(columns):
            raise ValueError(
                f"{table}: row {number}: columns are {', '.join(columns) or 'missing'}; "
                "file and class are needed"
            )
        images: dict[str, _Image] = {}
        for row, values in rows:
            try:
                image = self._from_row(columns, values)
                if image.name in images:
                    raise ValueError(f"{image.name} has two rows")
            except ValueError as problem:
                raise ValueError(f"{table}: row {row}: {problem}") from problem
            images[image.name] = image
        return list(images.values())

    def _from_row(self, columns: list[str], values: list[str]) -> "_Image":
        if len(values) != len(columns):
            raise ValueError(f"{len(values)} columns, expected {len(columns)}")
        named = dict(zip(columns, values, strict=True))
        name = contained_path(named["file"])
        splits: dict[str, Split] = {"train": "train", "val": "val", "test": "test"}
        splits[""] = self._split(name)
        label, split = named["class"].strip(), named.get("split", "").strip()
        if not label or split not in splits:
            raise ValueError("a class, and a split of train, val, test or nothing, are needed")
        return _Image(name, label, splits[split])

    def _split(self, name: str) -> Split:
        digest = hashlib.sha256(os.fsencode(name)).digest()
        place = int.from_bytes(digest[:6], "big") / 2**48
        if place < self.test:
            return "test"
        return "val" if place < self.test + self.validation else "train"


class _Image(NamedTuple):
    name: str
    label: str
    split: Split


def is_image(name: str) -> bool:
    """Return True if a file has an image's suffix."""
    return Path(name).suffix.lower() in SUFFIXES


def files_below(root: Path, folder: str = "") -> list[str]:
    """List all files below a folder, sorted by name.

    Hidden files are skipped. Links are followed, except to a folder that contains the link.

    Args:
        root: folder that names are relative to.
        folder: folder below `root` to list; `root` itself when left out.
    """
    above = (os.path.realpath(root),) if folder else ()
    return sorted(_walk(root, folder, above), key=lambda name: os.fsencode(name).split(b"/"))


def _walk(root: Path, folder: str, above: tuple[str, ...]) -> Iterator[str]:
    real = os.path.realpath(root / folder)
    if real in above:
        return
    with os.scandir(root / folder) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            below = f"{folder}/{entry.name}" if folder else entry.name
            if entry.is_dir():
                yield from _walk(root, below, (*above, real))
            else:
                yield below


def _first(names: list[str]) -> str:
    return f"the first is {printable(names[0])}"


def _table_rows(table: Path) -> Iterator[tuple[int, list[str]]]:
    """Yield number and columns of each row; skip blank ones."""
    try:
        text = table.read_bytes().decode("utf-8-sig")  # spreadsheets write a byte-order mark
        reader = csv.reader(io.StringIO(text, newline=""), strict=True)
        for values in reader:
            if any(value.strip() for value in values):
                yield reader.line_num, values
    except (OSError, UnicodeDecodeError, csv.Error) as problem:
        raise ValueError(
            f"{table}: cannot be read as CSV in UTF-8 ({str(problem).splitlines()[0]})"
        ) from problem

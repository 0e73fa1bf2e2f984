"""SVHN in miniature: PNG images and a digitStruct.mat in the layout that MATLAB writes."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from PIL import Image

FIELDS = ("height", "label", "left", "top", "width")
Box = dict[str, float]


class Writer:
    """A digitStruct.mat that grows entry by entry."""

    def __init__(self, path: Path) -> None:
        self.file = h5py.File(path, "w", userblock_size=512)  # as MATLAB has
        self.refs = self.file.create_group("#refs#")
        self.names: list[Any] = []
        self.boxes: list[Any] = []
        self.count = 0

    def key(self) -> str:
        self.count += 1
        return f"r{self.count}"

    def number(self, value: float) -> Any:
        return self.refs.create_dataset(self.key(), data=np.array([[value]])).ref

    def add(self, name: str, boxes: Sequence[Box]) -> None:
        letters = np.frombuffer(name.encode(), np.uint8).astype(np.uint16)[:, None]
        self.names.append(self.refs.create_dataset(self.key(), data=letters).ref)
        group = self.refs.create_group(self.key())
        for field in FIELDS:
            values = [box[field] for box in boxes if field in box]
            if len(boxes) == 1 and values:
                group[field] = np.array([values])
            elif values:
                group.create_dataset(
                    field,
                    data=np.array([[self.number(v)] for v in values], h5py.ref_dtype),
                    dtype=h5py.ref_dtype,
                )
        self.boxes.append(group.ref)

    def close(self, repeat: int = 1) -> None:
        struct = self.file.create_group("digitStruct")
        for field, refs in (("name", self.names), ("bbox", self.boxes)):
            struct.create_dataset(
                field, data=np.array(refs * repeat, h5py.ref_dtype)[:, None], dtype=h5py.ref_dtype
            )
        self.file.close()


def box(label: float, left: float, top: float, width: float, height: float) -> Box:
    return {"height": height, "label": label, "left": left, "top": top, "width": width}


def write_digit_struct(
    path: Path, entries: Sequence[tuple[str, Sequence[Box]]], repeat: int = 1
) -> None:
    writer = Writer(path)
    for name, boxes in entries:
        writer.add(name, boxes)
    writer.close(repeat)


def some_entries(n: int, seed: int = 0) -> list[tuple[str, list[Box]]]:
    """Entries with one to five digits side by side in images of 100 x 50."""
    rng = np.random.default_rng(seed)
    entries = []
    for i in range(n):
        left, width = rng.integers(2, 20), rng.integers(8, 14)
        labels = rng.integers(1, 11, rng.choice([1, 2, 3, 4, 5], p=[0.15, 0.54, 0.26, 0.04, 0.01]))
        entries.append(
            (
                f"{i + 1}.png",
                [
                    box(float(label), float(left + width * j), 10.0, float(width), 25.0)
                    for j, label in enumerate(labels)
                ],
            )
        )
    return entries


def write_images(folder: Path, entries: Sequence[tuple[str, Sequence[Box]]], seed: int = 0) -> None:
    """Noise, with each digit's box filled in a grey of its own class: a number that a network can
    learn to read.
    """
    rng = np.random.default_rng(seed)
    for name, boxes in entries:
        pixels = rng.integers(0, 40, (50, 100, 3), np.uint8)
        for b in boxes:
            top, left = int(b["top"]), int(b["left"])
            pixels[top : top + int(b["height"]), left : left + int(b["width"])] = 50 + 20 * int(
                b["label"]
            )
        Image.fromarray(pixels).save(folder / name)


def write_svhn(root: Path, train: int = 60, test: int = 20, extra: int = 0) -> None:
    """The unpacked folders of the three archives."""
    for seed, (part, n) in enumerate({"train": train, "test": test, "extra": extra}.items()):
        if n:
            folder = root / part
            folder.mkdir(parents=True)
            entries = some_entries(n, seed)
            write_digit_struct(folder / "digitStruct.mat", entries)
            write_images(folder, entries, seed)

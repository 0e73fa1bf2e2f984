"""Synthetic house numbers.

Errors on them compare networks, and say nothing about errors on SVHN.
"""

from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from stn_lightning.batch import Batch, Split
from stn_lightning.datamodules.batches import Draw, SplitBatches
from stn_lightning.datamodules.svhn import HouseNumberDataModule
from stn_lightning.datasets import ImageTensorSource
from stn_lightning.datasets.files.paths import data_root
from stn_lightning.datasets.svhn_boxes import CLASSES, Layouts, drawn_layouts, layouts, read_json
from stn_lightning.synthetic.numbers import DigitPool, SyntheticNumber

VALIDATION = 5000
"""Number of SVHN's training numbers whose layouts are used for validation, as in the paper."""
DRAWN: dict[Split, tuple[int, int]] = {
    "train": (28_401, 0),
    "val": (VALIDATION, 1),
    "test": (13_068, 2),
}
"""Number and seed of the layouts that are drawn if SVHN's are missing; SVHN has as many."""


def _read(layouts: Layouts, draw: Draw) -> Tensor:
    """Return layouts, from which the device composes images."""
    box, aspect = layouts.box[draw.indices], layouts.aspect[draw.indices]
    return torch.cat([box.flatten(1), aspect[:, None]], 1)  # (B, digits * 4 + 1)


class SyntheticNumbersDataModule(HouseNumberDataModule):
    """Synthetic house numbers of up to five digits.

    Training images are composed anew in each epoch, validation and test images always alike. Labels
    and boxes are those of SVHN if its annotations (`svhn_format1_*_labels.json`) exist, otherwise
    they are drawn with SVHN's statistics. The digits of each split are from the same split of
    `digits`.

    Args:
        digits: data set of the digits.
        composition: how images are composed from them.
        train_size: use only the first so many training images; all when left out.
        batch_size: size of the global batch; 128 in the paper, for SVHN.
        seed: seed of order and composition in training; the command line sets it from
            `seed_everything`.
        annotations: folder of SVHN's annotations; `svhn` in the data folder when left out.
    """

    def __init__(
        self,
        digits: ImageTensorSource,
        composition: SyntheticNumber,
        train_size: int | None = None,
        batch_size: int = 128,
        seed: int = 0,
        annotations: str | None = None,
    ) -> None:
        super().__init__(digits, batch_size, seed)
        self.digits = digits
        self.composition = composition
        self.train_size = train_size
        self.annotation_folder = (
            Path(annotations) if annotations is not None else data_root() / "svhn"
        )
        self.pools: dict[Split, DigitPool] = {}

    @property
    def class_names(self) -> tuple[str, ...]:
        return CLASSES

    @property
    def image_shape(self) -> tuple[int, int, int]:
        return (3, self.composition.size, self.composition.size)

    def load(self, split: Split) -> Layouts:
        self.pools[split] = DigitPool(*self.digits.load(split))
        kept = self.train_size if split == "train" else None
        return Layouts(*(values[:kept] for values in self._layouts(split)))

    def _layouts(self, split: Split) -> Layouts:
        path = (
            self.annotation_folder
            / f"svhn_format1_{'test' if split == 'test' else 'train'}_labels.json"
        )
        if not path.exists():
            return drawn_layouts(*DRAWN[split])
        real = layouts(read_json(path))
        part = {"train": slice(VALIDATION, None), "val": slice(VALIDATION), "test": slice(None)}[
            split
        ]
        return Layouts(*(values[part] for values in real))

    def dataset(self, split: Split) -> SplitBatches:
        layouts = self.splits[split]
        return SplitBatches(split, layouts.label, partial(_read, layouts))

    def colour_images(self, batch: Batch) -> Tensor:
        pool = self.pools[batch.split].to(batch.image.device)
        box, aspect = batch.image[:, :-1].unflatten(1, (-1, 4)), batch.image[:, -1]
        return self.composition(box, batch.label, aspect, pool, self.randomness(batch))

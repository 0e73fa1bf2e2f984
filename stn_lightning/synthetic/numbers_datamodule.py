"""Composed house numbers: real digits at the places that real house numbers have, on backgrounds
that are made up.

Synthetic. Errors on them say how two networks compare, and nothing of SVHN.
"""

from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import Dataset

from stn_lightning.batch import Batch, Split
from stn_lightning.datamodules.batches import Draw
from stn_lightning.datamodules.svhn import HouseNumberDataModule
from stn_lightning.datasets import ImageTensorSource
from stn_lightning.datasets.files.paths import data_root
from stn_lightning.datasets.svhn_boxes import CLASSES, Layouts, drawn_layouts, layouts, read_json
from stn_lightning.synthetic.numbers import DigitPool, SyntheticNumber

VALIDATION = 5000
"""Layouts of SVHN's training numbers that are kept for validation, as many as in the paper."""
DRAWN: dict[Split, tuple[int, int]] = {
    "train": (28_401, 0),
    "val": (VALIDATION, 1),
    "test": (13_068, 2),
}
"""How many layouts are drawn where SVHN's are not at hand, as many as SVHN has, and from which
seed.
"""


class _Placed(Dataset[Batch]):
    """Layouts, a batch at a time: pictures of them are made on the device."""

    def __init__(self, places: Layouts, split: Split) -> None:
        self.places = places
        self.split = split

    def __len__(self) -> int:
        return len(self.places.label)

    def __getitem__(self, draw: Draw) -> Batch:
        i = draw.indices
        number = torch.cat(
            [self.places.box[i].flatten(1), self.places.aspect[i][:, None]], 1
        )  # (B, digits * 4 + 1)
        return Batch(number, self.places.label[i], i, draw.epoch, draw.share, self.split)


class SyntheticNumbersDataModule(HouseNumberDataModule):
    """SYNTHETIC house numbers of up to five digits, composed anew in each epoch of training, frozen
    for validation and test.

    Labels and places are those of SVHN's own numbers where its annotations
    (`svhn_format1_*_labels.json`) are at hand, else drawn with their statistics. Digits of each
    split come from the same split of `digits`.

    Args:
        digits: what numbers are composed from.
        composition: what pictures look like.
        train_size: how many of the training pictures to use, the first ones; all of them when left
            out. Validation and test stay whole.
        batch_size: of the global batch; the paper's is 128 for SVHN.
        seed: of order and composition in training; the command line sets it from `seed_everything`.
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
        self.train_pictures = train_size
        self.annotation_folder = (
            Path(annotations) if annotations is not None else data_root() / "svhn"
        )
        self.pools: dict[Split, DigitPool] = {}

    @property
    def class_names(self) -> tuple[str, ...]:
        return CLASSES

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(channels, height, width) of what a task gets."""
        return (3, self.composition.size, self.composition.size)

    def load(self, split: Split) -> Layouts:
        self.pools[split] = DigitPool(*self.digits.load(split))
        kept = self.train_pictures if split == "train" else None
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

    def dataset(self, split: Split) -> Dataset[Batch]:
        return _Placed(self.splits[split], split)

    def colour_images(self, batch: Batch) -> Tensor:
        pool = self.pools[batch.split].to(batch.image.device)
        box, aspect = batch.image[:, :-1].unflatten(1, (-1, 4)), batch.image[:, -1]
        return self.composition(box, batch.label, aspect, pool, self.randomness(batch))

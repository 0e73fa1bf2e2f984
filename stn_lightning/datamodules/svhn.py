"""SVHN's whole house numbers: crops in files that are mapped into memory, cut at random on the
device.
"""

import torch
from jaxtyping import Int64, UInt8
from torch import Tensor
from torch.utils.data import Dataset

from stn_lightning.batch import Batch, Split
from stn_lightning.datamodules.batches import Draw
from stn_lightning.datamodules.svhn_base import SVHNBase
from stn_lightning.datasets.svhn import SVHN, SVHNSplit


class _Mapped(Dataset[Batch]):
    def __init__(self, cuttings: SVHNSplit, split: Split) -> None:
        self.cuttings = cuttings
        self.split = split

    def __len__(self) -> int:
        return len(self.cuttings.label)

    def __getitem__(self, draw: Draw) -> Batch:
        i = draw.indices
        return Batch(
            self.cuttings.read(i), self.cuttings.label[i], i, draw.epoch, draw.share, self.split
        )


class SVHNDataModule(SVHNBase):
    """Photographs of whole house numbers, each less its own mean; in training a crop at a place
    drawn anew in each epoch, else the middle.

    Args:
        source: the photographs.
        batch_size: of the global batch; the paper's is 128.
        seed: of order and crops in training; the command line sets it from `seed_everything`.
    """

    def __init__(self, source: SVHN, batch_size: int = 128, seed: int = 0) -> None:
        super().__init__(batch_size, seed)
        self.source = source
        self.class_names = source.class_names

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(channels, height, width) of what a task gets."""
        return (3, self.source.size, self.source.size)

    def prepare_data(self) -> None:
        self.source.prepare()

    def load(self, split: Split) -> SVHNSplit:
        return self.source.load(split)

    def dataset(self, split: Split) -> Dataset[Batch]:
        return _Mapped(self.splits[split], split)

    def coloured(self, batch: Batch) -> Tensor:
        margin = self.source.margin
        if batch.split == "train":
            corner = self.randomness(batch).integer(2, 2 * margin + 1)
        else:
            corner = torch.full((len(batch.image), 2), margin, device=batch.image.device)
        return crop_at(batch.image, corner, self.source.size).float() / 255


def crop_at(
    image: UInt8[Tensor, "batch channels height width"], corner: Int64[Tensor, "batch 2"], size: int
) -> UInt8[Tensor, "batch channels size size"]:
    """From each picture a square whose upper left pixel is at its (row, column)."""
    reach = torch.arange(size, device=image.device)
    rows, columns = (corner[:, i, None] + reach for i in range(2))  # (B, size) each
    which = torch.arange(len(image), device=image.device)[:, None, None]
    return image.permute(0, 2, 3, 1)[which, rows[:, :, None], columns[:, None, :]].permute(
        0, 3, 1, 2
    )

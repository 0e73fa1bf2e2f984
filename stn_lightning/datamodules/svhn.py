"""House numbers, cropped on the device."""

from abc import abstractmethod
from functools import partial

import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor

from stn_lightning.batch import Batch, Split
from stn_lightning.datamodules.base import BaseDataModule
from stn_lightning.datamodules.batches import Draw, SplitBatches
from stn_lightning.datamodules.preprocessing import Preprocessing
from stn_lightning.datasets.svhn import SVHN, SVHNSplit
from stn_lightning.shapes import Images


class HouseNumberDataModule(BaseDataModule):
    """Images of house numbers, with each image's mean subtracted.

    So the zeros out of bounds have the image's mean colour.
    """

    preprocessing = Preprocessing("stretch", subtract_mean=True)
    """for images of one number with a margin of 15 % of its width and height on each side"""

    @abstractmethod
    def colour_images(self, batch: Batch) -> Float[Tensor, "batch 3 height width"]:
        """Return images, 0 to 1, before subtracting the mean."""

    def transform_batch(self, batch: Batch) -> Batch:
        return batch._replace(image=_subtract_mean(self.colour_images(batch)))


class SVHNDataModule(HouseNumberDataModule):
    """SVHN's house numbers, randomly cropped in training.

    Args:
        source: data set of the house numbers.
        batch_size: size of the global batch; 128 in the paper.
        seed: seed of order and crops in training; the command line sets it from
            `seed_everything`.
    """

    def __init__(self, source: SVHN, batch_size: int = 128, seed: int = 0) -> None:
        super().__init__(source, batch_size, seed)
        self.source: SVHN = source

    @property
    def image_shape(self) -> tuple[int, int, int]:
        return (3, self.source.size, self.source.size)

    def load(self, split: Split) -> SVHNSplit:
        return self.source.load(split)

    def dataset(self, split: Split) -> SplitBatches:
        crops = self.splits[split]  # with their margin
        return SplitBatches(split, crops.label, partial(_read, crops))

    def colour_images(self, batch: Batch) -> Tensor:
        margin = self.source.margin
        if batch.split == "train":
            corner = self.randomness(batch).integer(2, 2 * margin + 1)
        else:
            corner = torch.full((len(batch.image), 2), margin, device=batch.image.device)
        return crop_at(batch.image, corner, self.source.size).float() / 255


def _read(crops: SVHNSplit, draw: Draw) -> Tensor:
    return crops.read(draw.indices)


def crop_at(
    image: UInt8[Tensor, "batch channels height width"], corner: Int64[Tensor, "batch 2"], size: int
) -> UInt8[Tensor, "batch channels size size"]:
    """Cut a square out of each image.

    Args:
        image: the images.
        corner: (row, column) of each square's upper left pixel.
        size: side of the squares, in pixels.
    """
    steps = torch.arange(size, device=image.device)
    rows, columns = (corner[:, i, None] + steps for i in range(2))  # (B, size) each
    batch = torch.arange(len(image), device=image.device)[:, None, None]
    last = image.permute(0, 2, 3, 1)[batch, rows[:, :, None], columns[:, None, :]]
    return last.permute(0, 3, 1, 2)


def _subtract_mean(image: Images) -> Images:
    return image - image.mean((1, 2, 3), keepdim=True)

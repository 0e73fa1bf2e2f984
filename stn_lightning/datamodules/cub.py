"""Crops of CUB-200-2011's birds."""

from stn_lightning.datamodules.image import ImageDataModule
from stn_lightning.datasets.cub import CUB


class CUBDataModule(ImageDataModule):
    """Square crops of birds, half of them mirrored in training.

    Args:
        source: data set; when left out, CUB with a `side` of 8/7 of `size`: 256 pixels for crops of
            224, and 512 for crops of 448.
        size: side of the crops, in pixels; 224 or 448 in the paper.
        batch_size: size of the global batch, which is divided among all processes.
        num_workers: number of processes that read batches in advance; 0 reads them in the training
            process, which is enough for cached images.
        seed: seed of order and crops in training; the command line sets it from `seed_everything`.

    Examples:
        >>> CUBDataModule(size=448).source.side
        512
    """

    def __init__(
        self,
        source: CUB | None = None,
        size: int = 224,
        batch_size: int = 32,
        num_workers: int = 0,
        seed: int = 0,
    ) -> None:
        source = CUB(side=round(size * 8 / 7)) if source is None else source
        super().__init__(source, size, batch_size, num_workers, seed)

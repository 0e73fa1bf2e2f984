"""CUB-200-2011: random crops to train on, the centre crop to validate and test on."""

from stn_lightning.datamodules.image import ImageDataModule


class CUBDataModule(ImageDataModule):
    """Square crops of CUB-200-2011, mirrored half of the time in training.

    Args, properties and methods are those of `ImageDataModule`; its `source` is a
    `stn_lightning.datasets.CUB`.
    """

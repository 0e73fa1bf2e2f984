"""Data sets: from files to images and labels."""

from stn_lightning.datasets.cub import CUB
from stn_lightning.datasets.digits import EmbeddedDigits
from stn_lightning.datasets.image_files import ImageFileDataset, ImageFileSource
from stn_lightning.datasets.image_folder import ImageFolder
from stn_lightning.datasets.mnist import MNIST
from stn_lightning.datasets.sources import (
    Annotations,
    ImageTensorDataset,
    ImageTensorSource,
    Source,
)
from stn_lightning.datasets.svhn import SVHN

__all__ = [
    "CUB",
    "MNIST",
    "SVHN",
    "Annotations",
    "EmbeddedDigits",
    "ImageFileDataset",
    "ImageFileSource",
    "ImageFolder",
    "ImageTensorDataset",
    "ImageTensorSource",
    "Source",
]

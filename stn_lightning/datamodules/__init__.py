"""Data modules: splits, loaders, distortions on the device."""

from stn_lightning.datamodules.addition import AdditionDataModule
from stn_lightning.datamodules.base import BaseDataModule
from stn_lightning.datamodules.batches import EpochBatches, ResumableLoader
from stn_lightning.datamodules.colocalisation import ColocalisationDataModule
from stn_lightning.datamodules.cub import CUBDataModule
from stn_lightning.datamodules.image import ImageDataModule
from stn_lightning.datamodules.image_folder import ImageFolderDataModule
from stn_lightning.datamodules.mnist import MNISTDataModule
from stn_lightning.datamodules.svhn import SVHNDataModule

__all__ = [
    "AdditionDataModule",
    "BaseDataModule",
    "CUBDataModule",
    "ColocalisationDataModule",
    "EpochBatches",
    "ImageDataModule",
    "ImageFolderDataModule",
    "MNISTDataModule",
    "ResumableLoader",
    "SVHNDataModule",
]

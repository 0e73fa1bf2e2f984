"""Splits, loaders, and what happens to a batch on the device: distortion."""

from stn_lightning.datamodules.addition import AdditionDataModule
from stn_lightning.datamodules.batches import EpochBatches, ResumableLoader
from stn_lightning.datamodules.colocalisation import ColocalisationDataModule
from stn_lightning.datamodules.composed_numbers import ComposedNumbersDataModule
from stn_lightning.datamodules.digits import DigitsDataModule
from stn_lightning.datamodules.folder import FolderDataModule
from stn_lightning.datamodules.house_numbers import HouseNumbersDataModule
from stn_lightning.datamodules.photographs import PhotographsDataModule
from stn_lightning.datamodules.splits import SplitsDataModule

__all__ = [
    "AdditionDataModule",
    "ColocalisationDataModule",
    "ComposedNumbersDataModule",
    "DigitsDataModule",
    "EpochBatches",
    "FolderDataModule",
    "HouseNumbersDataModule",
    "PhotographsDataModule",
    "ResumableLoader",
    "SplitsDataModule",
]

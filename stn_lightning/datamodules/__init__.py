"""Splits, loaders, and what happens to a batch on the device: distortion."""

from stn_lightning.datamodules.batches import EpochBatches, ResumableLoader
from stn_lightning.datamodules.digits import DigitsDataModule
from stn_lightning.datamodules.folder import FolderDataModule
from stn_lightning.datamodules.photographs import PhotographsDataModule

__all__ = ["DigitsDataModule", "EpochBatches", "FolderDataModule", "PhotographsDataModule", "ResumableLoader"]

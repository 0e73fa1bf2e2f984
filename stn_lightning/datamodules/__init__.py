"""Splits, loaders, and what happens to a batch on the device: distortion."""

from stn_lightning.datamodules.batches import EpochBatches, ResumableLoader
from stn_lightning.datamodules.digits import DigitsDataModule

__all__ = ["DigitsDataModule", "EpochBatches", "ResumableLoader"]

"""What all data modules share: three splits, loaders that resume, random numbers of each picture's
own.
"""

from abc import abstractmethod
from typing import Any

import torch
from lightning import LightningDataModule
from torch.utils.data import Dataset

from stn_lightning.batch import Batch, Split
from stn_lightning.datamodules.batches import EpochBatches, ResumableLoader
from stn_lightning.distortions import CounterRandom

FROZEN_SEED = 0
"""Validation and test pictures are distorted by this seed whatever the run's: their distortion is
part of the data set.
"""
STREAMS: dict[Split, int] = {"train": 0, "val": 1, "test": 2}
PARTS = 4
"""Streams of each part of a picture: the three splits', and the one of the order."""


class BaseDataModule(LightningDataModule):
    """Three splits. A subclass says how one is loaded, how a batch is read, and what happens to it
    on the device.

    Args:
        batch_size: of the global batch, shared out among all processes.
        seed: of order and distortion in training; the command line sets it from `seed_everything`.
        num_workers: processes that read ahead; 0 reads in the training process, which is enough for
            what lies in memory.
    """

    def __init__(self, batch_size: int, seed: int, num_workers: int = 0) -> None:
        super().__init__()
        if batch_size < 1:
            raise ValueError(f"batch_size {batch_size}; give 1 or more")
        if num_workers < 0:
            raise ValueError(f"workers {num_workers}; give 0 or more")
        self.workers = num_workers
        self.batch_size = batch_size
        self.seed = seed
        self.splits: dict[Split, Any] = {}

    @abstractmethod
    def load(self, split: Split) -> Any:
        """What there is of a split; kept in `splits`."""

    @abstractmethod
    def dataset(self, split: Split) -> Dataset[Batch]:
        """The loaded split as something that reads a whole batch: `dataset[draw]`, with a length."""

    @abstractmethod
    def distorted(self, batch: Batch) -> Batch:
        """The batch as a task gets it, made on the device on which it is."""

    def setup(self, stage: str) -> None:
        wanted: dict[str, tuple[Split, ...]] = {"fit": ("train", "val"), "validate": ("val",)}
        for split in wanted.get(stage, ("test",)):
            if split not in self.splits:
                self.splits[split] = self.load(split)

    def train_dataloader(self) -> ResumableLoader:
        return self.loader("train", self.dataset("train"))

    def val_dataloader(self) -> ResumableLoader:
        return self.loader("val", self.dataset("val"))

    def test_dataloader(self) -> ResumableLoader:
        return self.loader("test", self.dataset("test"))

    def predict_dataloader(self) -> ResumableLoader:
        return self.loader("test", self.dataset("test"))

    def loader(self, split: Split, data: Any) -> ResumableLoader:
        """Batches of `data`, on this process its part of each."""
        rank, ranks = (
            (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
        )
        batches = EpochBatches(
            data,
            self.batch_size,
            shuffle=split == "train",
            seed=self.seed,
            rank=rank,
            world_size=ranks,
        )
        return ResumableLoader(
            data, batches, self.workers, pin_memory=self.workers > 0 and torch.cuda.is_available()
        )

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        return self.distorted(batch)

    def randomness(self, batch: Batch, part: int = 0) -> CounterRandom:
        """Of the batch's pictures: new in each epoch of training, frozen otherwise; each `part` has
        numbers of its own.
        """
        seed, epoch = (self.seed, batch.epoch) if batch.split == "train" else (FROZEN_SEED, 0)
        return CounterRandom(seed, STREAMS[batch.split] + PARTS * part, epoch, batch.indices)

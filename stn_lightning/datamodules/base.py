"""The base class and interface of data modules."""

import hashlib
import os
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sized
from types import MappingProxyType
from typing import Any, NamedTuple, cast

import torch
from jaxtyping import Float, UInt8
from lightning import LightningDataModule, Trainer
from torch import Tensor
from torch.utils.data import Dataset

from stn_lightning.batch import Batch, Split
from stn_lightning.datamodules.batches import EpochBatches, ResumableLoader
from stn_lightning.datamodules.preprocessing import PreprocessedImage, Preprocessing
from stn_lightning.datasets.decoding import WHITE
from stn_lightning.datasets.sources import SPLITS, Source
from stn_lightning.distortions import CounterRandom

FROZEN_SEED = 0
"""Seed of validation and test images for every run, as their distortions are part of the data."""
STREAMS: dict[Split, int] = {"train": 0, "val": 1, "test": 2}
STREAMS_PER_PART = 4
"""Number of random streams of each part of an image: one for each split, and one for the order."""


class BatchAnnotations(NamedTuple):
    """Annotated parts and boxes of a batch, for scores."""

    parts: Float[Tensor, "batch parts 3"]
    """x, y from -1 to 1 across the task's input image, and 1 if the part is visible, else 0"""
    boxes: Float[Tensor, "batch 4"]
    """left, top, right, bottom of the object, from -1 to 1 across the image"""
    part_names: tuple[str, ...]
    part_groups: Mapping[str, tuple[str, ...]] = MappingProxyType({})
    """names of the parts in each group of parts that are scored together"""


class BaseDataModule(LightningDataModule, ABC):
    """Three splits with resumable loaders.

    A subclass defines how a split is loaded (`load`), how a batch is read (`dataset`) and how it is
    distorted on the device (`transform_batch`). Tasks, callbacks and analysis use no other members
    of a data module than those of this class.

    Args:
        source: data set.
        batch_size: size of the global batch, which is divided among all processes.
        seed: seed of order and distortion in training; the command line sets it from
            `seed_everything`.
        num_workers: number of processes that read batches in advance; 0 reads them in the training
            process, which is enough for data in memory.

    Raises:
        ValueError: a number is out of its range.
    """

    lists_files = False
    """Whether `load` only lists files, without reading images."""

    def __init__(self, source: Source, batch_size: int, seed: int, num_workers: int = 0) -> None:
        super().__init__()
        if batch_size < 1:
            raise ValueError(f"batch_size {batch_size}; give 1 or more")
        if num_workers < 0:
            raise ValueError(f"num_workers {num_workers}; give 0 or more")
        self.source: Source = source
        self.num_workers = num_workers
        self.batch_size = batch_size
        self.seed = seed
        self.splits: dict[Split, Any] = {}
        self._fingerprint: str | None = None

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes, in the order of their labels."""
        return self.source.class_names

    @property
    def class_groups(self) -> tuple[str, ...]:
        """Name of each class's group; empty without groups."""
        return self.source.class_groups

    @property
    @abstractmethod
    def image_shape(self) -> tuple[int, ...]:
        """Shape of an image: channels, (depth,) height, width."""

    @property
    def background(self) -> tuple[int, int, int]:
        """Colour behind an image's transparent pixels."""
        return WHITE

    @property
    @abstractmethod
    def preprocessing(self) -> Preprocessing:
        """Steps from an image in a file to the input."""

    def preprocess(
        self, image: UInt8[Tensor, "3 rows columns"], shape: tuple[int, int, int]
    ) -> PreprocessedImage:
        """Turn an image in a file into the task's input.

        Args:
            image: upright RGB image.
            shape: shape of the result: `image_shape` of the network's training data.
        """
        return self.preprocessing(image, shape)

    @abstractmethod
    def load(self, split: Split) -> Any:
        """Load a split; `setup` stores the result in `splits`."""

    @abstractmethod
    def dataset(self, split: Split) -> Dataset[Batch]:
        """Return a dataset whose `dataset[draw]` reads a batch (`SplitBatches`)."""

    @abstractmethod
    def transform_batch(self, batch: Batch) -> Batch:
        """Distort or convert a batch on the device."""

    def annotations(self, batch: Batch) -> BatchAnnotations | None:
        """Return a batch's annotations, or None.

        They are not part of batches, so that no task can learn from them.
        """
        return None

    def applied_theta(self, batch: Batch) -> Float[Tensor, "batch 6"] | None:
        """Return the theta of a batch's affine distortion, or None.

        It maps the distorted image to the original. The theta of a transformer that undoes the
        distortion is its inverse.
        """
        return None

    def prepare_data(self) -> None:
        self.source.prepare()

    def setup(self, stage: str) -> None:
        """Load the splits that a stage needs.

        The stage "fit" also loads the test split if that only lists files, so that a missing test
        split is reported before training.

        Raises:
            ValueError: a split has no images.
        """
        fit: tuple[Split, ...] = SPLITS if self.lists_files else ("train", "val")
        needed: dict[str, tuple[Split, ...]] = {"fit": fit, "validate": ("val",)}
        for split in needed.get(stage, ("test",)):
            if split not in self.splits:
                self.splits[split] = self.load(split)
                self.source.refuse_empty(split, len(self.splits[split].label))

    def fingerprint(self) -> str:
        """Return a checksum of the training and validation data.

        It is of the images' names and labels, in their order.
        """
        if self._fingerprint is None:
            digest = hashlib.sha256()
            for split in ("train", "val"):
                images = self.splits[split]
                digest.update(torch.as_tensor(images.label).numpy().tobytes())
                for name in getattr(images, "names", ()):
                    digest.update(os.fsencode(name) + b"\0")
            self._fingerprint = digest.hexdigest()
        return self._fingerprint

    def train_dataloader(self) -> ResumableLoader:
        return self.loader("train")

    def val_dataloader(self) -> ResumableLoader:
        return self.loader("val")

    def test_dataloader(self) -> ResumableLoader:
        return self.loader("test")

    def predict_dataloader(self) -> ResumableLoader:
        return self.loader("test")

    def loader(self, split: Split) -> ResumableLoader:
        """Return the loader of a split."""
        dataset = self.dataset(split)
        rank, world_size, overfit = 0, 1, False
        if (trainer := self.trainer) is not None:
            rank, world_size = trainer.global_rank, trainer.world_size
            # with this option every epoch must have the same images
            overfit = trainer.overfit_batches > 0  # type: ignore[attr-defined]
        batches = EpochBatches(
            cast(Sized, dataset),
            self.batch_size,
            shuffle=split == "train" and not overfit,
            seed=self.seed,
            rank=rank,
            world_size=world_size,
            empty_shares=split != "train",
        )
        pin_memory = self.num_workers > 0 and torch.cuda.is_available()
        return ResumableLoader(dataset, batches, self.num_workers, pin_memory=pin_memory)

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        return self.transform_batch(batch)

    def randomness(self, batch: Batch, part: int = 0) -> CounterRandom:
        """Return the random numbers of a batch.

        In training they depend on the epoch, in validation and test they do not.

        Args:
            batch: the batch.
            part: number of the part of an image that they are for; each part has its own numbers.
        """
        seed, epoch = (self.seed, batch.epoch) if batch.split == "train" else (FROZEN_SEED, 0)
        stream = STREAMS[batch.split] + STREAMS_PER_PART * part
        return CounterRandom(seed, stream, epoch, batch.indices)


def datamodule_of(trainer: Trainer) -> BaseDataModule:
    """Return the trainer's data module."""
    # Lightning sets it without declaring it
    return cast(BaseDataModule, trainer.datamodule)  # type: ignore[attr-defined]

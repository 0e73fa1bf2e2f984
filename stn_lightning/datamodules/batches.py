"""Batches that are a function of (seed, epoch).

`ResumableLoader(dataset, EpochBatches(...))` works in any Lightning project. Lightning saves its
position in the checkpoint and restores it.
"""

import math
from collections.abc import Callable, Iterator, Sized
from typing import Any, NamedTuple

import torch
from jaxtyping import Int64
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from stn_lightning.batch import Batch, Split
from stn_lightning.distortions import CounterRandom
from stn_lightning.runtime import signals

ORDER_STREAM = 3
"""Random stream of the order; streams 0 to 2 are for the distortions of the splits."""


class Draw(NamedTuple):
    """Indices of the images of one batch."""

    indices: Int64[Tensor, " batch"]
    epoch: int
    share: float


class SplitBatches(Dataset[Batch]):
    """Batches of a split, read as a whole.

    Args:
        split: name of the split.
        label: label of each image.
        read: function that reads the images of a draw. Worker processes get a copy of it.
        draws: number of times that the split is repeated, with different distortions.
    """

    def __init__(
        self, split: Split, label: Tensor, read: Callable[[Draw], Tensor], draws: int = 1
    ) -> None:
        self.split, self.label, self.read, self.draws = split, label, read, draws

    def __len__(self) -> int:
        return len(self.label) * self.draws

    def __getitem__(self, draw: Draw) -> Batch:
        label = self.label[draw.indices % len(self.label)]
        return Batch(self.read(draw), label, draw.indices, draw.epoch, draw.share, self.split)


class EpochBatches(Sampler[Draw]):
    """Batches of an epoch, in which every image occurs once.

    Each process gets its share of each batch. If the batch size does not divide the number of
    images, the sizes of batches differ by one at most, so there is no small batch at the end.

    Args:
        data: data to draw from; only its length is used.
        batch_size: size of the global batch, which has the same images on any number of processes.
        shuffle: whether to draw a new order in each epoch.
        seed: seed of the order.
        rank: rank of this process.
        world_size: number of processes.
        empty_shares: whether a process may get a batch without images. Metrics accept such a batch,
            training steps do not, so it is not allowed if `shuffle` is true.

    Raises:
        ValueError: there are no images, or a process would get no image of a batch.

    Examples:
        >>> batches = EpochBatches(range(10), batch_size=4, shuffle=False)
        >>> [draw.indices.tolist() for draw in batches]
        [[0, 1, 2, 3], [4, 5, 6], [7, 8, 9]]
    """

    def __init__(
        self,
        data: Sized,
        batch_size: int,
        *,
        shuffle: bool,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        empty_shares: bool = True,
    ) -> None:
        self.length = len(data)
        self.batches = math.ceil(self.length / batch_size)
        if not self.length:
            raise ValueError("the data hold no images; check the data folder")
        smallest = self.length // self.batches
        if (shuffle or not empty_shares) and smallest < world_size:
            cure = f"raise batch_size or use {smallest}" if self.batches > 1 else f"use {smallest}"
            raise ValueError(f"batches of {smallest} images for {world_size} processes; {cure}")
        self.shuffle, self.seed, self.rank, self.world_size = shuffle, seed, rank, world_size
        self.epoch, self.done = 0, 0

    def __len__(self) -> int:
        return self.batches

    def set_epoch(self, epoch: int) -> None:
        """Go to the start of an epoch, unless in it."""
        if epoch != self.epoch:
            self.epoch, self.done = epoch, 0

    def __iter__(self) -> Iterator[Draw]:
        if self.done >= self.batches:
            self.epoch, self.done = self.epoch + 1, 0
        order = torch.arange(self.length)
        if self.shuffle:
            # not by a torch.Generator: on a CPU it uses 32 bits of its seed, too few for a seed and
            # an epoch
            order = (
                CounterRandom(self.seed, ORDER_STREAM, self.epoch, order)
                .uniform(1, 0.0, 1.0)[:, 0]
                .argsort(stable=True)
            )
        parts = torch.tensor_split(order, self.batches)
        for part in parts[self.done :]:
            own = part[self.rank :: self.world_size]
            yield Draw(own, self.epoch, len(own) * self.world_size / len(part))


class ResumableLoader:
    """A loader that continues where a checkpoint was saved.

    Without a checkpoint each iteration begins a new epoch, also if the one before was not finished,
    as after Lightning's sanity check. It is not a subclass of `DataLoader`, as Lightning would
    replace the sampler of one on several processes and in prediction.

    Args:
        dataset: data set whose `dataset[draw]` reads a whole batch.
        batches: batches to read, in order.
        num_workers: number of processes that read batches in advance; 0 for data in memory.
        options: other arguments of `DataLoader`.
    """

    batch_sampler = None  # Lightning also looks here for `set_epoch`

    def __init__(
        self, dataset: Dataset[Any], batches: EpochBatches, num_workers: int = 0, **options: Any
    ) -> None:
        # without a generator the loader draws a seed for its workers from the global generator in
        # each epoch, and a resumed training would draw once more
        options.setdefault("generator", torch.Generator())
        if num_workers:
            options.setdefault("worker_init_fn", signals.worker_init_fn())
        self.loader: DataLoader[Any] = DataLoader(
            dataset, batch_size=None, sampler=batches, num_workers=num_workers, **options
        )
        self.sampler = batches
        self.resuming = False

    def __len__(self) -> int:
        return len(self.sampler)

    def __iter__(self) -> Iterator[Any]:
        if not self.resuming and self.sampler.done < len(self.sampler):
            self.sampler.done = 0
        self.resuming = False
        self.loader.generator.manual_seed(self.sampler.epoch)
        for batch in self.loader:
            self.sampler.done += 1
            yield batch

    def state_dict(self) -> dict[str, int]:
        """Return epoch and number of batches done, for a checkpoint."""
        return {"epoch": self.sampler.epoch, "done": self.sampler.done}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Continue where a state was saved."""
        self.sampler.epoch, self.sampler.done = state["epoch"], state["done"]
        self.resuming = True

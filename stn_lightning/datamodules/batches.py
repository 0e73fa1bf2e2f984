"""Which pictures make up which batch: a function of (seed, epoch), the same on one process and on
many.

Usable by itself: `ResumableLoader(dataset, EpochBatches(...))` goes into any Lightning project.
Lightning saves its position in the checkpoint and restores it.
"""

import math
from collections.abc import Iterator, Sized
from typing import Any, NamedTuple

import torch
from jaxtyping import Int64
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from stn_lightning.distortions import CounterRandom
from stn_lightning.runtime import signals

ORDER_STREAM = 3
"""Of the seed's random numbers; 0 to 2 are the splits' distortions."""


class Draw(NamedTuple):
    """The pictures of one batch, before they are read."""

    indices: Int64[Tensor, " batch"]
    epoch: int
    share: float


class EpochBatches(Sampler[Draw]):
    """The batches of each epoch, each picture exactly once, on this process its part of every
    global batch.

    A set that the batch size does not divide gives batches whose sizes differ by one at most, so
    there is no stray small batch at the end.

    Args:
        data: what is drawn from; only its length matters.
        batch_size: of the GLOBAL batch: the same pictures are seen together on any number of
            processes.
        shuffle: whether each epoch has an order of its own; else the order is the data's.
        seed: of the order.
        rank: which process this is.
        world_size: how many there are.

    Raises:
        ValueError: where there is nothing to draw, or a batch has no picture for some process.
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
    ) -> None:
        self.length = len(data)
        self.batches = math.ceil(self.length / batch_size)
        if not self.length:
            raise ValueError("this split holds no pictures; check the data folder")
        if shuffle and self.length // self.batches < world_size:
            raise ValueError(
                f"batches of {self.length // self.batches} pictures for {world_size} processes; raise batch_size or use fewer"
            )
        self.shuffle, self.seed, self.rank, self.ranks = shuffle, seed, rank, world_size
        self.epoch, self.done = 0, 0

    def __len__(self) -> int:
        return self.batches

    def set_epoch(self, epoch: int) -> None:
        """Go to the beginning of `epoch`, unless already in it. Lightning calls this as each epoch
        starts.
        """
        if epoch != self.epoch:
            self.epoch, self.done = epoch, 0

    def __iter__(self) -> Iterator[Draw]:
        if self.done >= self.batches:
            self.epoch, self.done = self.epoch + 1, 0
        order = torch.arange(self.length)
        if self.shuffle:
            # no torch.Generator: on a CPU it takes 32 bits of its seed, which do not hold a seed
            # and an epoch
            order = (
                CounterRandom(self.seed, ORDER_STREAM, self.epoch, order)
                .uniform(1, 0.0, 1.0)[:, 0]
                .argsort(stable=True)
            )
        parts = torch.tensor_split(order, self.batches)
        for part in parts[self.done :]:
            own = part[self.rank :: self.ranks]
            yield Draw(own, self.epoch, len(own) * self.ranks / len(part))


class ResumableLoader:
    """A loader that knows how many batches have been handed out and goes on there after a restart,
    with or without workers.

    An epoch that is left halfway without a restart begins anew, as the first validation does after
    Lightning's sanity check.
    It holds a `DataLoader` and is none itself: Lightning would put its own sampler into one, on
    several processes and in prediction.

    Args:
        dataset: `dataset[draw]` reads a whole batch.
        batches: which pictures, in which order.
        num_workers: processes that read ahead; 0 for data in memory.
        options: of `DataLoader`.
    """

    batch_sampler = None  # where Lightning also looks for a `sampler` to tell of each epoch

    def __init__(
        self, dataset: Dataset[Any], batches: EpochBatches, num_workers: int = 0, **options: Any
    ) -> None:
        # else each pass takes its workers' seed from the global random numbers, and the pass that a
        # resumed training begins shifts them
        options.setdefault("generator", torch.Generator())
        if num_workers:
            options.setdefault("worker_init_fn", signals.shield_workers())
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
        """Epoch and batches done, for a checkpoint."""
        return {"epoch": self.sampler.epoch, "done": self.sampler.done}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on where `state` was saved."""
        self.sampler.epoch, self.sampler.done = state["epoch"], state["done"]
        self.resuming = True

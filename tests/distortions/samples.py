"""What the tests of this room share: digits, the paper's five distortions, and random numbers that
are written down.
"""

import functools
import hashlib
from collections.abc import Callable

import torch
from torch import Tensor

from stn_lightning.datasets import EmbeddedDigits
from stn_lightning.distortions import (
    Cluttered,
    CounterRandom,
    Distortion,
    Elastic,
    Perspective,
    Rotated,
    RotatedScaledTranslated,
)

DISTORTIONS: dict[str, Callable[[], Distortion]] = {
    "R": Rotated,
    "RTS": RotatedScaledTranslated,
    "P": Perspective,
    "E": Elastic,
    "TC": Cluttered,
}
"""Section 4.1 of the paper, with this project's defaults."""


def digits() -> Tensor:
    """The 500 embedded digits of the test split, (500, 1, 28, 28) uint8."""
    return _loaded().clone()


@functools.cache
def _loaded() -> Tensor:
    return EmbeddedDigits().load("test").image


def distorted(
    distortion: Distortion,
    pool: Tensor,
    index: Tensor,
    seed: int = 0,
    stream: int = 0,
    epoch: int = 0,
) -> Tensor:
    """The images of `pool` at `index`, distorted."""
    return distortion(pool[index].float() / 255, CounterRandom(seed, stream, epoch, index), pool)


def randomness(n: int, seed: int = 0) -> CounterRandom:
    """Of the first `n` images of some data set."""
    return CounterRandom(seed, 0, 0, torch.arange(n))


class Recorded(CounterRandom):
    """Random numbers that are kept as they are drawn."""

    def __init__(self, seed: int, stream: int, epoch: int, index: Tensor) -> None:
        super().__init__(seed, stream, epoch, index)
        self.draws: list[Tensor] = []

    def uniform(self, n: int, low: float, high: float) -> Tensor:
        self.draws.append(super().uniform(n, low, high))
        return self.draws[-1]

    def normal(self, n: int, std: float) -> Tensor:
        self.draws.append(super().normal(n, std))
        return self.draws[-1]

    def integer(self, n: int, high: Tensor | int) -> Tensor:
        self.draws.append(super().integer(n, high))
        return self.draws[-1]


def digests(batch: int) -> dict[str, str]:
    """SHA-256 of each distortion of the 500 digits, computed `batch` at a time from the last
    image to the first.
    """
    pool = digits()
    found = {}
    for name, distortion in DISTORTIONS.items():
        parts = [
            distorted(distortion(), pool, part)
            for part in torch.arange(len(pool)).flip(0).split(batch)
        ]
        found[name] = hashlib.sha256(
            torch.cat(parts).flip(0).contiguous().numpy().tobytes()
        ).hexdigest()
    return found

"""Learning rate over a training, whatever its length: a function of how much of it is done.

As factors of each parameter group's own rate, so a slower localisation stays slower.
"""

import math
from abc import ABC, abstractmethod


class Schedule(ABC):
    """A factor for the learning rate."""

    @abstractmethod
    def __call__(self, progress: float) -> float:
        """The factor when `progress`, from 0 to 1, of all steps is done."""


class ConstantLR(Schedule):
    """The learning rate as it is."""

    def __call__(self, progress: float) -> float:
        return 1.0


class CosineDecay(Schedule):
    """A straight rise from 0, then half a cosine down to 0.

    Args:
        warmup: part of the training in which the rate rises.
    """

    def __init__(self, warmup: float = 0.0) -> None:
        if not 0 <= warmup < 1:
            raise ValueError(f"warmup {warmup} is a part of the training; give 0 <= warmup < 1")
        self.warmup = warmup

    def __call__(self, progress: float) -> float:
        if progress < self.warmup:
            return progress / self.warmup
        return (1 + math.cos(math.pi * (progress - self.warmup) / (1 - self.warmup))) / 2


class StepDecay(Schedule):
    """Multiplied by `factor` at equal intervals.

    Args:
        factor: at each step down; the paper divides by 10.
        num_intervals: of equal length; the paper's 150k iterations have 3, of 50k each.
    """

    def __init__(self, factor: float = 0.1, num_intervals: int = 3) -> None:
        self.factor = factor
        self.parts = num_intervals

    def __call__(self, progress: float) -> float:
        return float(self.factor ** min(int(progress * self.parts), self.parts - 1))

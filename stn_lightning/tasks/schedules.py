"""Learning rate schedules for a training of any length.

A schedule is a function of the progress of the training, from 0 to 1. It returns a factor for the
learning rates of all parameter groups.
"""

import math
from abc import ABC, abstractmethod


class Schedule(ABC):
    """A factor of the learning rate."""

    @abstractmethod
    def __call__(self, progress: float) -> float:
        """Return the factor at `progress`, from 0 to 1."""


class ConstantLR(Schedule):
    """Leave the learning rate as it is.

    Examples:
        >>> ConstantLR()(0.9)
        1.0
    """

    def __call__(self, progress: float) -> float:
        return 1.0


class CosineDecay(Schedule):
    """Rise linearly, then fall to 0 along a cosine.

    Args:
        warmup: share of the training in which the learning rate rises.

    Raises:
        ValueError: `warmup` is not from 0 to 1.

    Examples:
        >>> CosineDecay(warmup=0.1)(0.05)
        0.5
    """

    def __init__(self, warmup: float = 0.0) -> None:
        if not 0 <= warmup < 1:
            raise ValueError(f"warmup {warmup} is a share of the training; give 0 <= warmup < 1")
        self.warmup = warmup

    def __call__(self, progress: float) -> float:
        if progress < self.warmup:
            return progress / self.warmup
        return (1 + math.cos(math.pi * (progress - self.warmup) / (1 - self.warmup))) / 2


class StepDecay(Schedule):
    """Multiply by `factor` at equal intervals.

    Args:
        factor: factor of each decay; the paper divides by 10.
        num_intervals: number of equal intervals; the paper has 3 of 50,000 steps.

    Raises:
        ValueError: `factor` is not above 0, or `num_intervals` below 1.

    Examples:
        >>> [StepDecay(0.5)(progress) for progress in (0.0, 0.4, 0.9)]
        [1.0, 0.5, 0.25]
    """

    def __init__(self, factor: float = 0.1, num_intervals: int = 3) -> None:
        if not factor > 0 or num_intervals < 1:
            raise ValueError(
                f"factor {factor} and num_intervals {num_intervals} of a step decay; "
                "give a factor above 0 and 1 interval or more"
            )
        self.factor = factor
        self.num_intervals = num_intervals

    def __call__(self, progress: float) -> float:
        done = min(int(progress * self.num_intervals), self.num_intervals - 1)
        return float(self.factor**done)

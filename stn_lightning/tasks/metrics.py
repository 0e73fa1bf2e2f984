"""Metrics as sums over samples.

Their results do not depend on the batch size or the number of processes. A sample has one label, or
a sequence of labels, one for each digit.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float, Int64, Shaped
from torch import Tensor
from torch.nn import functional
from torchmetrics import Metric

from stn_lightning.shapes import Logits


def is_misclassified(
    logits: Logits, label: Int64[Tensor, "batch *digits"]
) -> Bool[Tensor, " batch"]:
    """Return which samples have a wrong class or digit."""
    wrong = logits.argmax(-1) != label
    return wrong if wrong.dim() == 1 else wrong.any(1)


def cross_entropies(
    logits: Logits, label: Int64[Tensor, "batch *digits"], label_smoothing: float = 0.0
) -> Float[Tensor, " batch"]:
    """Return each sample's cross entropy, summed over its digits.

    In nats, computed in float32.
    """
    losses = functional.cross_entropy(
        logits.float().movedim(-1, 1), label, reduction="none", label_smoothing=label_smoothing
    )
    return losses if losses.dim() == 1 else losses.sum(1)


class SampleMean(Metric):
    """A mean over samples, summed in float64.

    The `update` of a subclass calls `add` with a value for each sample.
    """

    full_state_update = False
    total: Tensor
    samples: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("total", torch.tensor(0.0, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("samples", torch.tensor(0), dist_reduce_fx="sum")

    def add(self, values: Shaped[Tensor, " batch"]) -> None:
        """Add one value for each sample."""
        self.total += values.double().sum()
        self.samples += len(values)

    def compute(self) -> Float[Tensor, ""]:
        return (self.total / self.samples).float()

    def _apply(
        self, fn: Callable[[Tensor], Tensor], exclude_state: Sequence[str] = ()
    ) -> "SampleMean":
        """Move to a device, but keep float64."""
        moved: Any = super()._apply(lambda state: state.to(fn(state).device), exclude_state)
        return moved


class ErrorRate(SampleMean):
    """Misclassified samples, in percent.

    Examples:
        >>> error = ErrorRate()
        >>> error.update(torch.tensor([[2.0, 1.0], [0.0, 3.0]]), torch.tensor([0, 0]))
        >>> error.compute()
        tensor(50.)
    """

    higher_is_better = False

    def update(self, logits: Logits, label: Int64[Tensor, "batch *digits"]) -> None:
        self.add(100 * is_misclassified(logits, label))


class MeanCrossEntropy(SampleMean):
    """Mean of `cross_entropies`.

    Examples:
        >>> loss = MeanCrossEntropy()
        >>> loss.update(torch.zeros(4, 10), torch.arange(4))
        >>> loss.compute()
        tensor(2.3026)
    """

    higher_is_better = False

    def update(self, logits: Logits, label: Int64[Tensor, "batch *digits"]) -> None:
        self.add(cross_entropies(logits, label))


class Samples(Metric):
    """The number of samples.

    Examples:
        >>> samples = Samples()
        >>> samples.update(torch.zeros(4, 10), torch.arange(4))
        >>> samples.compute()
        tensor(4.)
    """

    full_state_update = False
    samples: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("samples", torch.tensor(0), dist_reduce_fx="sum")

    def update(self, logits: Logits, label: Int64[Tensor, "batch *digits"]) -> None:
        self.samples += len(label)

    def compute(self) -> Float[Tensor, ""]:
        return self.samples.float()

"""Metrics as sums over samples.

They are exact for batches of any size, on any number of processes.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Float, Int64, Shaped
from torch import Tensor
from torch.nn import functional
from torchmetrics import Metric


class SampleMean(Metric):
    """A mean over samples, summed in float64.

    A subclass's `update` calls `add` with a value for each sample.
    """

    full_state_update = False
    total: Tensor
    samples: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("total", torch.tensor(0.0, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("samples", torch.tensor(0), dist_reduce_fx="sum")

    def add(self, values: Shaped[Tensor, " batch"]) -> None:
        """Add a value of each sample."""
        self.total += values.double().sum()
        self.samples += len(values)

    def compute(self) -> Float[Tensor, ""]:
        return (self.total / self.samples).float()

    def _apply(
        self, fn: Callable[[Tensor], Tensor], exclude_state: Sequence[str] = ()
    ) -> "SampleMean":
        """Move to a device, but never to bfloat16."""
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

    def update(
        self, logits: Float[Tensor, "batch classes"], label: Int64[Tensor, " batch"]
    ) -> None:
        self.add(100 * (logits.argmax(1) != label))


class MeanCrossEntropy(SampleMean):
    """Cross entropy, in nats.

    Examples:
        >>> loss = MeanCrossEntropy()
        >>> loss.update(torch.zeros(4, 10), torch.arange(4))
        >>> loss.compute()
        tensor(2.3026)
    """

    higher_is_better = False

    def update(
        self, logits: Float[Tensor, "batch classes"], label: Int64[Tensor, " batch"]
    ) -> None:
        self.add(functional.cross_entropy(logits.float(), label, reduction="none"))


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

    def update(
        self, logits: Float[Tensor, "batch *digits classes"], label: Int64[Tensor, "batch *digits"]
    ) -> None:
        self.samples += len(label)

    def compute(self) -> Float[Tensor, ""]:
        return self.samples.float()

"""Metrics as sums over samples: exact for batches of any size, on any number of processes."""

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn import functional
from torchmetrics import Metric


class SampleMean(Metric):
    """A mean over all samples."""

    full_state_update = False
    total: Tensor
    samples: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("total", torch.tensor(0.0, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("samples", torch.tensor(0), dist_reduce_fx="sum")

    def compute(self) -> Float[Tensor, ""]:
        return (self.total / self.samples).float()


class ErrorRate(SampleMean):
    """Wrongly classified samples, in percent."""

    higher_is_better = False

    def update(
        self, logits: Float[Tensor, "batch classes"], label: Int64[Tensor, " batch"]
    ) -> None:
        self.total += 100 * (logits.argmax(1) != label).sum()
        self.samples += len(label)


class MeanCrossEntropy(SampleMean):
    """Cross entropy, in nats."""

    higher_is_better = False

    def update(
        self, logits: Float[Tensor, "batch classes"], label: Int64[Tensor, " batch"]
    ) -> None:
        self.total += functional.cross_entropy(logits.float(), label, reduction="sum")
        self.samples += len(label)


class Samples(Metric):
    """How many samples went in."""

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

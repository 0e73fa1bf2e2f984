"""Classify numbers of up to five digits.

A number counts as right only if all its digits are right.

Reference:
    Jaderberg et al. 2015, section 4.2; Goodfellow et al. 2014, "Multi-digit Number Recognition from
    Street View Imagery".
"""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torchmetrics import Metric, MetricCollection

from stn_lightning.batch import Batch, Split
from stn_lightning.tasks.classification import ClassificationTask, probabilities
from stn_lightning.tasks.metrics import ErrorRate, MeanCrossEntropy, Samples, cross_entropies


class DigitSequenceTask(ClassificationTask):
    """Train `backbone(transformer(image))` by the sum of the digits' cross entropies.

    Labels are (batch, digits). The last class means "no digit here"; all positions after the end of
    a number have it. Logged are the errors of whole numbers (`test/error`), at each position
    (`test/error_at_1` for the first digit), and of the numbers of each length
    (`test/error_of_length_3`), in percent.

    Args:
        backbone: image(s) -> logits of each digit.
        optimizer: parameters -> optimiser.

    Examples:
        >>> from functools import partial
        >>> from stn_lightning.backbones import MultiDigitCNN
        >>> task = DigitSequenceTask(MultiDigitCNN(0.1), partial(torch.optim.SGD, lr=0.1))
        >>> task(torch.rand(2, 3, 64, 64)).shape
        torch.Size([2, 5, 11])
    """

    confusion: Int64[Tensor, "classes classes"] | None = None
    """digits of the last evaluated split, by label (row) and prediction (column)"""

    def split_metrics(self) -> MetricCollection:
        metrics: dict[str, Metric | MetricCollection] = {
            "error": ErrorRate(),
            "loss": MeanCrossEntropy(),
            "samples": Samples(),
            "parts": SequenceParts(*(self.logits_shape or (5, 11))),
        }
        return MetricCollection(metrics, compute_groups=False)

    def configure_model(self) -> None:
        super().configure_model()
        self.metrics = self._metrics().to(self.device)  # for the backbone's digits and classes

    @property
    def validation_metrics(self) -> set[str]:
        metrics: Any = self.metrics["val_metrics"]
        return {name for name in metrics if name != "val/parts"} | {
            f"val/{name}" for name in metrics["parts"].names
        }

    def loss(
        self, logits: Float[Tensor, "batch digits classes"], batch: Batch
    ) -> Float[Tensor, ""]:
        """Return the mean of the digits' summed losses, in nats."""
        return cross_entropies(logits, batch.label, self.label_smoothing).mean()

    def predictions(
        self, logits: Float[Tensor, "batch digits classes"], class_names: Sequence[str]
    ) -> list[tuple[str, float]]:
        """Return the most probable numbers with their probabilities.

        The probability of a number is the product of its digits'.

        Raises:
            NonFiniteError: a probability is not a number.
        """
        values, classes = probabilities(logits).max(-1)
        no_digit = len(class_names) - 1
        numbers = [
            "".join(class_names[i] for i in digits if i < no_digit) for digits in classes.tolist()
        ]
        return list(zip(numbers, values.prod(1).tolist(), strict=True))

    def log_metrics(self, batch: Batch) -> None:
        metrics: Any = self.metrics[f"{batch.split}_metrics"]
        scalars = {name: each for name, each in metrics.items() if not name.endswith("/parts")}
        self.log_dict(scalars, batch_size=len(batch.label), prog_bar=True)

    def on_validation_epoch_end(self) -> None:
        self._log_parts("val")

    def on_test_epoch_end(self) -> None:
        self._log_parts("test")

    def _log_parts(self, split: Split) -> None:
        """Log the errors by position and length; store the confusion."""
        metrics: Any = self.metrics[f"{split}_metrics"]
        parts = metrics["parts"]
        values = parts.compute()  # over all processes
        parts.reset()
        self.confusion = values.pop("confusion")
        self.log_dict({f"{split}/{name}": value.float() for name, value in values.items()})


class SequenceParts(Metric):
    """Errors by position and length, and the confusion of digits.

    Args:
        num_digits: largest number of digits.
        num_classes: classes of each position; the last is "no digit here".
    """

    full_state_update = False
    counts: Tensor
    wrong: Tensor
    wrong_at: Tensor
    confusions: Tensor

    def __init__(self, num_digits: int = 5, num_classes: int = 11) -> None:
        super().__init__()
        self.num_classes = num_classes
        shapes = {"counts": num_digits + 1, "wrong": num_digits + 1, "wrong_at": num_digits}
        for name, size in {**shapes, "confusions": num_classes**2}.items():
            self.add_state(name, torch.zeros(size, dtype=torch.long), dist_reduce_fx="sum")

    def update(
        self, logits: Float[Tensor, "batch digits classes"], label: Int64[Tensor, "batch digits"]
    ) -> None:
        predicted = logits.argmax(-1)
        lengths = (label != self.num_classes - 1).sum(1)
        self.counts.index_add_(0, lengths, torch.ones_like(lengths))
        self.wrong.index_add_(0, lengths, (predicted != label).any(1).long())
        self.wrong_at += (predicted != label).sum(0)
        pairs = (label * self.num_classes + predicted).flatten()
        self.confusions.index_add_(0, pairs, torch.ones_like(pairs))

    @property
    def names(self) -> list[str]:
        """Names of all errors that may be logged."""
        return [f"error_at_{i + 1}" for i in range(len(self.wrong_at))] + [
            f"error_of_length_{n}" for n in range(len(self.counts))
        ]

    def compute(self) -> dict[str, Tensor]:
        """Return the confusion, and errors in percent.

        Lengths that do not occur are left out.
        """
        total, confusion = self.counts.sum(), self.confusions.view(self.num_classes, -1).clone()
        values = {f"error_at_{i + 1}": 100 * n / total for i, n in enumerate(self.wrong_at)}
        for n, (wrong, count) in enumerate(zip(self.wrong, self.counts, strict=True)):
            if count:
                values[f"error_of_length_{n}"] = 100 * wrong / count
        return {"confusion": confusion, **values}

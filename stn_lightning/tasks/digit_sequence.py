"""Read numbers of up to five digits.

A number is right only if all of its digits are.

Reference:
    Jaderberg et al. 2015, section 4.2; Goodfellow et al. 2014, "Multi-digit Number Recognition from
    Street View Imagery".
"""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor
from torch.nn import functional
from torchmetrics import Metric, MetricCollection

from stn_lightning.batch import Batch, Split
from stn_lightning.tasks.classification import ClassificationTask, probabilities
from stn_lightning.tasks.metrics import SampleMean, Samples


class DigitSequenceTask(ClassificationTask):
    """Train `backbone(transformer(image))` by the sum of the digits' cross entropies.

    Labels are (batch, digits); the last class stands for "no digit here", and after it comes no
    digit. `test/error` is of whole numbers. Beside it stand the errors at each position
    (`test/error_at_1` is the first digit's) and of the numbers of each length that occurs
    (`test/error_of_length_3`).

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
            "error": SequenceErrorRate(),
            "loss": SequenceCrossEntropy(),
        }
        metrics |= {"samples": Samples(), "parts": SequenceParts()}
        return MetricCollection(metrics, compute_groups=False)

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

    def misclassified(
        self, logits: Float[Tensor, "batch digits classes"], label: Int64[Tensor, "batch digits"]
    ) -> Bool[Tensor, " batch"]:
        return (logits.argmax(-1) != label).any(1)

    def predictions(
        self, logits: Float[Tensor, "batch digits classes"], class_names: Sequence[str]
    ) -> list[tuple[str, float]]:
        """Return the most probable numbers with their probabilities.

        Digits are independent of each other, so their probabilities multiply.

        Raises:
            NonFiniteError: if a probability is not a number.
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
        """Log the errors of the lengths that occur."""
        metrics: Any = self.metrics[f"{split}_metrics"]
        parts = metrics["parts"]
        values = parts.compute()  # over all processes
        parts.reset()
        self.confusion = values.pop("confusion")
        self.log_dict({f"{split}/{name}": value.float() for name, value in values.items()})


def cross_entropies(
    logits: Float[Tensor, "batch digits classes"],
    label: Int64[Tensor, "batch digits"],
    label_smoothing: float = 0.0,
) -> Float[Tensor, " batch"]:
    """Return cross entropies summed over the digits of each image."""
    losses = functional.cross_entropy(
        logits.float().transpose(1, 2), label, reduction="none", label_smoothing=label_smoothing
    )
    return losses.sum(1)


class SequenceErrorRate(SampleMean):
    """Numbers with any digit wrong, in percent."""

    higher_is_better = False

    def update(
        self, logits: Float[Tensor, "batch digits classes"], label: Int64[Tensor, "batch digits"]
    ) -> None:
        self.add(100 * (logits.argmax(-1) != label).any(1))


class SequenceCrossEntropy(SampleMean):
    """Cross entropy summed over the digits, in nats."""

    higher_is_better = False

    def update(
        self, logits: Float[Tensor, "batch digits classes"], label: Int64[Tensor, "batch digits"]
    ) -> None:
        self.add(cross_entropies(logits, label))


class SequenceParts(Metric):
    """Errors by position, length of the number, and digit.

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
        """Names of all errors that there can be."""
        return [f"error_at_{i + 1}" for i in range(len(self.wrong_at))] + [
            f"error_of_length_{n}" for n in range(len(self.counts))
        ]

    def compute(self) -> dict[str, Tensor]:
        """Return the confusion, and errors in percent."""
        total, confusion = self.counts.sum(), self.confusions.view(self.num_classes, -1).clone()
        values = {f"error_at_{i + 1}": 100 * n / total for i, n in enumerate(self.wrong_at)}
        for n, (wrong, count) in enumerate(zip(self.wrong, self.counts, strict=True)):
            if count:
                values[f"error_of_length_{n}"] = 100 * wrong / count
        return {"confusion": confusion, **values}

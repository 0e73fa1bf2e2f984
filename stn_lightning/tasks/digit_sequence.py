"""Reading a number: five digits from one picture, right only if all of them are.

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
from stn_lightning.tasks.classification import ClassificationTask
from stn_lightning.tasks.metrics import SampleMean, Samples


class DigitSequenceTask(ClassificationTask):
    """`backbone(transformer(image))`, the sum of the digits' cross entropies.

    `test/error` is of whole numbers. Beside it stand the errors of each position (`test/error_at_1`
    is the first digit's) and of the numbers of each length (`test/error_of_length_3`), of those
    lengths that there are; and `confusion`, of the last split seen.

    Labels are (batch, digits); the last class stands for "no digit here", and after it comes no
    digit.
    """

    confusion: Int64[Tensor, "classes classes"] | None = None
    """Digits of the last evaluated split by what they are (rows) and what they were read as
    (columns).
    """

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
        self, logits: Float[Tensor, "batch digits classes"], label: Int64[Tensor, "batch digits"]
    ) -> Float[Tensor, ""]:
        """Sum over the digits, mean over the batch, in nats."""
        return cross_entropies(logits, label).mean()

    def misclassified(
        self, logits: Float[Tensor, "batch digits classes"], label: Int64[Tensor, "batch digits"]
    ) -> Bool[Tensor, " batch"]:
        return (logits.argmax(-1) != label).any(1)

    def predictions(
        self, logits: Float[Tensor, "batch digits classes"], classes: Sequence[str]
    ) -> list[tuple[str, float]]:
        """The most probable number of each picture; digits are independent of each other, so their
        probabilities multiply.
        """
        probabilities, best = logits.float().softmax(-1).max(-1)
        numbers = [
            "".join(classes[i] for i in digits if i < len(classes) - 1) for digits in best.tolist()
        ]
        return list(zip(numbers, probabilities.prod(1).tolist(), strict=True))

    def log_metrics(self, batch: Batch) -> None:
        metrics: Any = self.metrics[f"{batch.split}_metrics"]
        whole = {
            name: metric
            for name, metric in metrics.items()
            if not isinstance(metric, SequenceParts)
        }
        self.log_dict(whole, batch_size=len(batch.label), prog_bar=True)

    def on_validation_epoch_end(self) -> None:
        self._log_parts("val")

    def on_test_epoch_end(self) -> None:
        self._log_parts("test")

    def _log_parts(self, split: Split) -> None:
        """As plain numbers, once the split is through: a length that does not occur has no error to
        log.
        """
        metrics: Any = self.metrics[f"{split}_metrics"]
        parts = metrics["parts"]
        found = parts.compute()  # of all processes
        parts.reset()
        self.confusion = found.pop("confusion")
        self.log_dict({f"{split}/{name}": value.float() for name, value in found.items()})


def cross_entropies(
    logits: Float[Tensor, "batch digits classes"], label: Int64[Tensor, "batch digits"]
) -> Float[Tensor, " batch"]:
    """Of each picture, summed over its digits."""
    return functional.cross_entropy(logits.float().transpose(1, 2), label, reduction="none").sum(1)


class SequenceErrorRate(SampleMean):
    """Numbers with a digit wrong, missing or too many, in percent."""

    higher_is_better = False

    def update(
        self, logits: Float[Tensor, "batch digits classes"], label: Int64[Tensor, "batch digits"]
    ) -> None:
        self.total += 100 * (logits.argmax(-1) != label).any(1).sum()
        self.samples += len(label)


class SequenceCrossEntropy(SampleMean):
    """Cross entropy summed over the digits, in nats."""

    higher_is_better = False

    def update(
        self, logits: Float[Tensor, "batch digits classes"], label: Int64[Tensor, "batch digits"]
    ) -> None:
        self.total += cross_entropies(logits, label).sum()
        self.samples += len(label)


class SequenceParts(Metric):
    """Where the errors are: by position, by length of the number, and by digit."""

    full_state_update = False
    counts: Tensor
    misread: Tensor
    positions: Tensor
    confusions: Tensor

    def __init__(self, digits: int = 5, classes: int = 11) -> None:
        super().__init__()
        self.class_names = classes
        self.add_state("counts", torch.zeros(digits + 1, dtype=torch.long), dist_reduce_fx="sum")
        self.add_state("misread", torch.zeros(digits + 1, dtype=torch.long), dist_reduce_fx="sum")
        self.add_state("positions", torch.zeros(digits, dtype=torch.long), dist_reduce_fx="sum")
        self.add_state(
            "confusions", torch.zeros(classes * classes, dtype=torch.long), dist_reduce_fx="sum"
        )

    def update(
        self, logits: Float[Tensor, "batch digits classes"], label: Int64[Tensor, "batch digits"]
    ) -> None:
        read = logits.argmax(-1)
        lengths = (label != self.class_names - 1).sum(1)
        self.counts.index_add_(0, lengths, torch.ones_like(lengths))
        self.misread.index_add_(0, lengths, (read != label).any(1).long())
        self.positions += (read != label).sum(0)
        pairs = (label * self.class_names + read).flatten()
        self.confusions.index_add_(0, pairs, torch.ones_like(pairs))

    @property
    def names(self) -> list[str]:
        """Of all errors that there can be."""
        return [f"error_at_{i + 1}" for i in range(len(self.positions))] + [
            f"error_of_length_{n}" for n in range(len(self.counts))
        ]

    def compute(self) -> dict[str, Tensor]:
        """The confusion, and errors in percent: of each position, and of the numbers of each length
        that occurs.
        """
        by_position = {
            f"error_at_{i + 1}": 100 * n / self.counts.sum() for i, n in enumerate(self.positions)
        }
        lengths = enumerate(zip(self.misread, self.counts, strict=True))
        by_length = {f"error_of_length_{n}": 100 * wrong / of for n, (wrong, of) in lengths if of}
        return (
            {"confusion": self.confusions.unflatten(0, (self.class_names, -1)).clone()}
            | by_position
            | by_length
        )

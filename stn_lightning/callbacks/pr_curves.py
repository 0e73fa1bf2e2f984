"""Write precision-recall curves of each class to TensorBoard."""

from typing import Any

import torch
from jaxtyping import Float, Int64
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from torch import Tensor
from torch.nn import functional

from stn_lightning.batch import Batch
from stn_lightning.datamodules.base import datamodule_of
from stn_lightning.tasks import StepOutput

THRESHOLDS = 127
"""Number of probabilities from 0 to 1 at which TensorBoard draws a curve."""


class PRCurves(Callback):
    """Write precision-recall curves to TensorBoard.

    There is one for each class, over all validation images of all processes. They are written at
    the end of the training, from the last validation. Tasks with sequences of labels have none.

    Examples:
        >>> trainer = Trainer(callbacks=[PRCurves()], logger=False, accelerator="cpu")
    """

    def __init__(self) -> None:
        self.counts: Tensor | None = None
        self.step = 0

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not trainer.sanity_checking:
            classes = len(datamodule_of(trainer).class_names)
            self.counts = torch.zeros(
                THRESHOLDS, classes, 2, 2, dtype=torch.long, device=pl_module.device
            )
            self.step = trainer.global_step

    def on_validation_batch_end(  # type: ignore[override]  # Lightning types outputs as tensors
        self, trainer: Trainer, _: LightningModule, outputs: StepOutput, batch: Batch, *rest: Any
    ) -> None:
        logits = outputs.logits
        if self.counts is not None and logits is not None and logits.dim() == 2:
            self.counts += count(logits.float().softmax(1), batch.label)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.counts is None:
            return
        counts = trainer.strategy.reduce(self.counts.clone(), reduce_op="sum")
        assert isinstance(counts, Tensor)
        if trainer.is_global_zero and counts.any():
            self._write(trainer, counts)

    def _write(self, trainer: Trainer, counts: Tensor) -> None:
        names = datamodule_of(trainer).class_names
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                for name, curve in zip(names, curves(counts).cpu().numpy(), strict=True):
                    tag = f"precision_recall/{name}"
                    logger.experiment.add_pr_curve_raw(tag, *curve, self.step, THRESHOLDS)


def count(
    probability: Float[Tensor, "batch classes"], label: Int64[Tensor, " batch"]
) -> Int64[Tensor, "thresholds classes 2 2"]:
    """Count images by threshold, class, label and prediction.

    The last two axes are whether an image belongs to the class, and whether it is predicted as the
    class. torchmetrics counts the same, but with deterministic algorithms it needs 100 MB an image.
    """
    classes = probability.shape[1]
    thresholds = torch.linspace(0, 1, THRESHOLDS, device=probability.device)
    belongs = functional.one_hot(label, classes).bool()[:, None]
    predicted = probability[:, None] >= thresholds[:, None]
    found, both = predicted.sum(0), (predicted & belongs).sum(0)
    positive = belongs.sum(0)
    negative = len(label) - positive
    counts = [negative - (found - both), found - both, positive - both, both]
    return torch.stack(counts, dim=-1).unflatten(2, (2, 2))


def curves(
    counts: Int64[Tensor, "thresholds classes 2 2"],
) -> Float[Tensor, "classes 6 thresholds"]:
    """Return the six rows of TensorBoard's curves.

    They are true and false positives, true and false negatives, precision and recall.

    Args:
        counts: sum of `count` over all batches.
    """
    true_neg, false_pos, false_neg, true_pos = counts.double().flatten(2).unbind(2)
    precision = true_pos / (true_pos + false_pos).clamp(min=1)
    recall = true_pos / (true_pos + false_neg).clamp(min=1)
    values = torch.stack([true_pos, false_pos, true_neg, false_neg, precision, recall])
    return values.permute(2, 0, 1)

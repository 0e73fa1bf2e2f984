"""Precision against recall of each class, over the pictures of all processes."""

from typing import Any

import torch
from jaxtyping import Float, Int64
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from torch import Tensor

from stn_lightning.batch import Batch

THRESHOLDS = 127
"""Of probability, from 0 to 1 at equal distances; as many as TensorBoard draws."""


class PRCurves(Callback):
    """Writes a curve of each class into TensorBoard when training ends, of its last validation; for
    tasks that give a picture one class.

    Kept are counts, (2, classes, 127) numbers whatever the split's size, which processes add up
    once: so the curves are of the whole split, on any number of processes. Looks at what
    `validation_step` returns, and computes nothing again.
    """

    def __init__(self) -> None:
        self.counts: Tensor | None = None
        self.step = 0

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.sanity_checking:
            return
        classes = getattr(trainer.datamodule, "classes", ())  # type: ignore[attr-defined]  # Lightning sets it without declaring it
        self.counts = (
            torch.zeros(2, len(classes), THRESHOLDS, dtype=torch.long, device=pl_module.device)
            if classes
            else None
        )
        self.step = trainer.global_step

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        if (
            self.counts is not None
            and isinstance(outputs, Tensor)
            and (outputs.dim(), batch.label.dim()) == (2, 1)
        ):
            count(self.counts, outputs.detach().float().softmax(1), batch.label)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.counts is not None:
            counts = trainer.strategy.reduce(self.counts, reduce_op="sum")
            assert isinstance(counts, Tensor)
            if trainer.is_global_zero and counts.any():
                self._write(trainer, counts)

    def _write(self, trainer: Trainer, counts: Int64[Tensor, "2 classes thresholds"]) -> None:
        classes = trainer.datamodule.class_names  # type: ignore[attr-defined]
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                for name, curve in zip(classes, curves(counts).unbind(1), strict=True):
                    logger.experiment.add_pr_curve_raw(
                        f"precision_recall/{name}", *curve.cpu().numpy(), self.step, THRESHOLDS
                    )


def count(
    counts: Int64[Tensor, "2 classes thresholds"],
    probability: Float[Tensor, "batch classes"],
    label: Int64[Tensor, " batch"],
) -> None:
    """Add a batch: how often a class had a probability, where it was another's picture (0) and
    where it was its own (1).
    """
    _, classes, thresholds = counts.shape
    bins = (probability * (thresholds - 1)).long().clamp(0, thresholds - 1)
    each = torch.arange(classes, device=label.device)
    place = ((label[:, None] == each) * classes + each) * thresholds + bins
    counts.view(-1).index_add_(0, place.flatten(), torch.ones_like(place).flatten())


def curves(counts: Int64[Tensor, "2 classes thresholds"]) -> Float[Tensor, "6 classes thresholds"]:
    """At each threshold: true and false positives, true and false negatives, precision, recall."""
    false, true = counts.flip(2).cumsum(2).flip(2).double()  # at or above the threshold
    others, own = false[:, :1], true[:, :1]
    precision, recall = true / (true + false).clamp(min=1), true / own.clamp(min=1)
    return torch.stack([true, false, others - false, own - true, precision, recall])

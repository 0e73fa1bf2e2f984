"""Check labels before they reach the loss."""

from typing import Any

from lightning import Callback, LightningModule, Trainer
from torch import Tensor

from stn_lightning.datamodules.base import datamodule_of
from stn_lightning.runtime.distributed import all_reduce_max, leave_together


class LabelCheck(Callback):
    """Stop at a label that is no class.

    Labels are checked in the first epoch. On a GPU the cross entropy of such a label would crash
    the process without saying why.

    Args:
        num_classes: number of classes; by default that of the data module.

    Raises:
        ValueError: names the image whose label is no class.

    Examples:
        >>> trainer = Trainer(callbacks=[LabelCheck()], logger=False, accelerator="cpu")
    """

    def __init__(self, num_classes: int | None = None) -> None:
        self.num_classes = num_classes
        self.checked = {"train": 0, "val": 0, "test": 0}

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if self.checked["train"] < trainer.num_training_batches:
            self._check(trainer, "train", batch)

    def on_validation_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, *_: Any
    ) -> None:
        if self.checked["val"] < sum(trainer.num_val_batches):
            self._check(trainer, "val", batch)

    def on_test_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, *_: Any
    ) -> None:
        if self.checked["test"] < sum(trainer.num_test_batches):
            self._check(trainer, "test", batch)

    def labels(self, batch: Any) -> tuple[Tensor, Tensor]:
        """Return labels and indices; override this for other batches."""
        return batch.label, batch.indices

    def _check(self, trainer: Trainer, split: str, batch: Any) -> None:
        classes = (
            len(datamodule_of(trainer).class_names)
            if self.num_classes is None
            else self.num_classes
        )
        labels, indices = self.labels(batch)
        wrong = (labels < 0) | (labels >= classes)
        if wrong.dim() > 1:  # images have a sequence of labels
            wrong = wrong.flatten(1).any(1)
        if culprit := all_reduce_max(int(indices[wrong].max()) + 1 if wrong.any() else 0):
            leave_together(trainer)
            raise ValueError(
                f"image {culprit - 1} of split {split!r} has a label that is no class; "
                f"give labels from 0 to {classes - 1}"
            )
        self.checked[split] += 1

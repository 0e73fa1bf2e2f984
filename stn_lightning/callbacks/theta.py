"""What transformers regress, as numbers."""

from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from torch import Tensor

from stn_lightning.batch import Batch
from stn_lightning.transformers import Transformer


class ThetaHistograms(Callback):
    """After each epoch, a histogram of each number of theta over the first validation batch, in TensorBoard."""

    def __init__(self) -> None:
        self.image: Tensor | None = None

    def on_validation_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Batch, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        if batch_idx == 0 and trainer.is_global_zero:
            self.image = batch.image.detach()

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        logger, transformer = trainer.logger, getattr(pl_module, "transformer", None)
        if self.image is None or trainer.sanity_checking or not isinstance(transformer, Transformer):
            return
        if not isinstance(logger, TensorBoardLogger):
            return
        with torch.no_grad():
            theta = transformer.warp(self.image).theta.float().cpu().flatten(1)  # (B, numbers of all transformers)
        for number, values in enumerate(theta.unbind(1)):
            logger.experiment.add_histogram(f"theta/{number:02d}", values, trainer.global_step)

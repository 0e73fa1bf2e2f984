"""Equal running statistics of batch normalisation on all processes."""

from typing import Any

from lightning import Callback, LightningModule, Trainer
from torch.nn.modules.batchnorm import _BatchNorm

from stn_lightning.runtime.checkpointing import last_chance


class AverageBatchNorm(Callback):
    """Average BatchNorm's running statistics over all processes.

    They are averaged before each validation, so that all processes validate the same network. On
    GPUs `Trainer(sync_batchnorm=True)` is better: it also normalises batches over all processes,
    and it works with weight averaging, whose averaged statistics this callback does not change.
    PyTorch has no synchronised batch normalisation for CPUs.
    """

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Average the statistics before `last.ckpt` is written."""
        if trainer.world_size == 1 or not last_chance(trainer):
            return
        for layer in pl_module.modules():
            if (
                isinstance(layer, _BatchNorm)
                and layer.running_mean is not None
                and layer.running_var is not None
            ):
                mean = trainer.strategy.reduce(layer.running_mean.clone(), reduce_op="mean")
                variance = layer.running_var + (layer.running_mean - mean) ** 2
                layer.running_mean.copy_(mean)
                layer.running_var.copy_(trainer.strategy.reduce(variance, reduce_op="mean"))

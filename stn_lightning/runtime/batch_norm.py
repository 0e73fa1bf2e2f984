"""Equal running statistics of batch normalisation on all processes."""

import sys
from typing import Any

from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.plugins import TorchSyncBatchNorm
from torch import nn
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


class SyncBatchNorm(TorchSyncBatchNorm):
    """Synchronise batch normalisation, also layers that contain an activation.

    PyTorch's conversion drops the activation of timm's `BatchNormAct2d`.
    """

    def apply(self, model: nn.Module) -> nn.Module:
        """Replace all layers of batch normalisation.

        Raises:
            ValueError: a layer has a `forward` of its own, which would be lost.
        """
        own = {
            type(layer)
            for layer in model.modules()
            if isinstance(layer, _BatchNorm)
            and not isinstance(layer, nn.SyncBatchNorm)
            and type(layer).forward is not _BatchNorm.forward
        }
        for kind in own:
            if kind.__name__ != "BatchNormAct2d":
                raise ValueError(
                    f"sync_batchnorm does not know {kind.__name__}, which does more than to "
                    "normalise; give --trainer.sync_batchnorm false"
                )
        if not own:
            return super().apply(model)
        timm: Any = sys.modules[own.pop().__module__]  # no import, as timm is an extra
        converted: nn.Module = timm.convert_sync_batchnorm(model)
        return converted

    def revert(self, model: nn.Module) -> nn.Module:
        """Undo `apply`; keep layers that contain an activation.

        They give the same results on one device.
        """
        if any(type(layer).forward is not nn.SyncBatchNorm.forward for layer in synced(model)):
            return model
        return super().revert(model)


def synced(model: nn.Module) -> list[nn.SyncBatchNorm]:
    """Return the synchronised layers."""
    return [layer for layer in model.modules() if isinstance(layer, nn.SyncBatchNorm)]

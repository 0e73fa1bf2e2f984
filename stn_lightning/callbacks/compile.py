"""Compile networks with torch.compile."""

from collections.abc import Iterator
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from torch import nn
from torchmetrics import Metric

from stn_lightning.transformers import Family, Transformer


class Compile(Callback):
    """Compile a task's networks in place before training.

    Results change by rounding only, names in checkpoints not at all. The parts of a transformer
    (localisation, regression, family, sampler) are compiled separately, because `record_warps` does
    not record compiled transformers.

    Args:
        options: options of `torch.compile`.

    Examples:
        >>> trainer = Trainer(callbacks=[Compile(mode="max-autotune")], logger=False)
    """

    def __init__(self, **options: Any) -> None:
        self.options = options

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        for module in without_transformers(pl_module):
            if isinstance(module, Family):  # transformers call its `grid`, not its `forward`
                object.__setattr__(module, "grid", torch.compile(module.grid, **self.options))
            else:
                module.compile(**self.options)


def without_transformers(network: nn.Module) -> Iterator[nn.Module]:
    """Yield the largest modules without transformers, but no metrics."""
    for part in network.children():
        # a list of modules is never called as a whole
        is_list = isinstance(part, nn.ModuleList | nn.ModuleDict)
        if is_list or any(isinstance(module, Transformer) for module in part.modules()):
            yield from without_transformers(part)
        elif not isinstance(part, Metric):
            yield part

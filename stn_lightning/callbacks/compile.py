"""Compile networks with torch.compile."""

from collections.abc import Iterator
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from torch import nn

from stn_lightning.transformers import Family, Transformer


class Compile(Callback):
    """Compile a task's networks in place before training.

    Values stay the same to rounding, and so do names in checkpoints. A transformer is compiled part
    by part (localisation, regression, family, sampler), because `record_warps` does not record one
    that is compiled as a whole.

    Args:
        options: options of `torch.compile`.

    Examples:
        >>> trainer = Trainer(callbacks=[Compile(mode="max-autotune")], logger=False)
    """

    def __init__(self, **options: Any) -> None:
        self.options = options

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        for module in without_transformers(pl_module):
            if isinstance(module, Family):  # whose `grid` a transformer calls, not `forward`
                object.__setattr__(module, "grid", torch.compile(module.grid, **self.options))
            else:
                module.compile(**self.options)


def without_transformers(network: nn.Module) -> Iterator[nn.Module]:
    """Yield the largest modules that neither are nor contain transformers."""
    for part in network.children():
        if any(isinstance(module, Transformer) for module in part.modules()):
            yield from without_transformers(part)
        else:
            yield part

"""Networks compiled by torch.compile, as a user's choice."""

from collections.abc import Iterator
from typing import Any

from lightning import Callback, LightningModule, Trainer
from torch import nn

from stn_lightning.transformers import Transformer


class Compile(Callback):
    """Compiles a task's networks in place before training: the same values to rounding, the same
    names in checkpoints.

    A transformer is compiled part by part (localisation, regression, family, sampler), so that
    instruments and the panel still see where it looks: of one that is compiled as a whole they see
    nothing.

    Args:
        options: of `torch.compile`.
    """

    def __init__(self, **options: Any) -> None:
        self.options = options

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        for module in without_transformers(pl_module):
            module.compile(**self.options)


def without_transformers(network: nn.Module) -> Iterator[nn.Module]:
    """The largest parts of a network that hold no transformer and are none."""
    for part in network.children():
        if any(isinstance(module, Transformer) for module in part.modules()):
            yield from without_transformers(part)
        else:
            yield part

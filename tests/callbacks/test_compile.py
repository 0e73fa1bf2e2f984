"""Compiled networks are compiled, and still tell where they record."""

from typing import Any

import jaxtyping
import pytest
import torch
from lightning import LightningModule, Trainer
from torch import nn

from stn_lightning.backbones import MultiDigitCNN
from stn_lightning.callbacks import Compile
from stn_lightning.callbacks.compile import without_transformers
from stn_lightning.transformers import (
    Affine,
    FullyConnectedLocalisation,
    ParallelTransformer,
    SpatialTransformer,
    Tiling,
    Translation,
)
from stn_lightning.transformers.transformer import record_warps


class Task(LightningModule):
    def __init__(self) -> None:
        super().__init__()
        localisation = nn.Sequential(nn.Flatten(), nn.Linear(64, 4), nn.Tanh())
        self.network = nn.Sequential(
            SpatialTransformer(localisation, Affine()), nn.Flatten(), nn.Linear(64, 3)
        )

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.network(image)
        return logits


def test_all_but_the_transformer_is_compiled_and_it_is_still_seen(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(
        jaxtyping.config, "jaxtyping_disable", True
    )  # checks of shapes are no part of the program
    graphs: list[Any] = []

    def backend(graph: torch.fx.GraphModule, _: Any) -> Any:
        graphs.append(graph)
        return graph.forward

    torch.compiler.reset()
    task, image = Task(), torch.rand(2, 1, 8, 8)
    plain = task(image)
    names = list(task.state_dict())
    Compile(backend=backend).on_fit_start(Trainer(logger=False, enable_checkpointing=False), task)
    with torch.no_grad(), record_warps(task) as records:
        assert torch.equal(task(image), plain)
    assert len(records) == 1
    assert len(graphs) == 6, (
        "localisation, regression, family, sampler, and the two layers behind them"
    )
    assert list(task.state_dict()) == names


def test_layers_in_lists_are_compiled_too() -> None:
    def transformer() -> ParallelTransformer:
        return ParallelTransformer(
            FullyConnectedLocalisation(), Translation(0.5), 2, start=Tiling()
        )

    network = nn.Sequential(MultiDigitCNN(0.1, [transformer()]), transformer())
    compiled = list(without_transformers(network))
    uncalled = (nn.ModuleList, nn.ModuleDict)
    assert not any(isinstance(module, uncalled) for module in compiled)
    parts = {id(each) for module in compiled for each in module.modules()}
    convolutions = [each for each in network.modules() if isinstance(each, nn.Conv2d)]
    assert len(convolutions) == 8
    assert parts >= {id(each) for each in convolutions}

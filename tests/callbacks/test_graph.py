"""The graph of a network: what is in it, and that nothing else has changed."""

import copy
from pathlib import Path
from typing import Any

import jaxtyping
import pytest
import torch
from lightning import Callback, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.compat.proto.graph_pb2 import GraphDef
from torch import nn

from stn_lightning.callbacks import TensorBoardLayout
from stn_lightning.callbacks.graph import trace_graph
from stn_lightning.callbacks.pr_curves import PRCurves
from stn_lightning.tasks import ClassificationTask
from stn_lightning.transformers import (
    Affine,
    ConvolutionalLocalisation,
    ParallelTransformer,
    SpatialTransformer,
    ThinPlateSpline,
)
from tests.reliability.training import Data

IMAGE = torch.zeros(1, 1, 28, 28)


class Noise(nn.Module):
    """Draws, whether it is trained or not."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + torch.rand_like(x)


def network() -> nn.Module:
    transformer = SpatialTransformer(ConvolutionalLocalisation(), Affine(), size=(12, 12))
    layers = {
        "norm": nn.BatchNorm2d(1),
        "drop": nn.Dropout(0.5),
        "noise": Noise(),
        "flat": nn.Flatten(),
        "last": nn.Linear(144, 10),
    }
    made = nn.Sequential()
    made.add_module("transformer", transformer)
    for name, layer in layers.items():
        made.add_module(name, layer)
    made(torch.rand(2, *IMAGE.shape[1:]))  # lazy layers have seen a picture
    return made.train()


def above(graph: GraphDef, name: str) -> set[str]:
    """All nodes that a node depends on."""
    inputs = {node.name: [source.partition(":")[0] for source in node.input] for node in graph.node}
    found, left = set(), [name]
    while left:
        for source in inputs[left.pop()]:
            if source not in found:
                found.add(source)
                left.append(source)
    return found


def test_the_answer_comes_from_the_image_and_every_parameter_through_the_modules() -> None:
    net = network()
    graph = trace_graph(net, IMAGE)
    names = [node.name for node in graph.node]
    assert len(set(names)) == len(names)
    sources = above(graph, "last/addmm")
    assert {"image", *(name.replace(".", "/") for name, _ in net.named_parameters())} <= sources
    assert {
        "transformer/sampler/grid_sampler_2d",
        "transformer/localisation/conv1/convolution",
        "norm/native_batch_norm",
    } <= sources
    (last,) = (node for node in graph.node if node.name == "last/addmm")
    (shape,) = last.attr["_output_shapes"].list.shape
    assert [side.size for side in shape.dim] == [1, 10]
    assert not [node.name for node in graph.node if node.op == "constant"], (
        "everything is from somewhere"
    )


@pytest.mark.parametrize(
    "transformer",
    [
        ParallelTransformer(ConvolutionalLocalisation(), Affine(), 2, size=(12, 12)),
        SpatialTransformer(ConvolutionalLocalisation(), ThinPlateSpline(3), size=(12, 12)),
    ],
)
def test_the_way_through_a_transformer_is_followed(transformer: nn.Module) -> None:
    transformer(IMAGE)
    graph = trace_graph(transformer, IMAGE)
    parameters = {name.replace(".", "/") for name, _ in transformer.named_parameters()}
    assert {"image", *parameters} <= above(graph, graph.node[-1].name)


def test_neither_the_network_nor_random_numbers_are_other_ones_afterwards() -> None:
    net = network()
    net.get_submodule("norm").eval()  # a frozen part of a network that is trained
    before, random = copy.deepcopy(net.state_dict()), torch.get_rng_state()
    modes = [module.training for module in net.modules()]
    graph = trace_graph(net, IMAGE)
    assert torch.equal(torch.get_rng_state(), random)
    assert [module.training for module in net.modules()] == modes
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert trace_graph(net, IMAGE) == graph
    with pytest.raises(RuntimeError):
        trace_graph(net, torch.zeros(1, 3, 28, 28))
    assert [module.training for module in net.modules()] == modes
    assert torch.nn.modules.module._global_forward_hooks == {}
    assert torch.nn.modules.module._global_forward_pre_hooks == {}


def test_the_graph_of_a_compiled_network_is_of_what_was_compiled(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(
        jaxtyping.config, "jaxtyping_disable", True
    )  # checks of shapes are no part of the program
    net = network()
    graph = trace_graph(net, IMAGE)
    for module in net.children():
        module.compile(backend="eager")
    assert trace_graph(net, IMAGE) == graph


@pytest.mark.filterwarnings("ignore:The '.*_dataloader' does not have many workers")
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed", "bf16-true"])
def test_a_training_that_is_drawn_ends_with_the_same_weights(
    precision: str, tmp_path: Path
) -> None:
    def trained(*callbacks: Callback) -> dict[str, torch.Tensor]:
        torch.manual_seed(3)
        net = nn.Sequential(
            SpatialTransformer(ConvolutionalLocalisation(), Affine(), size=(12, 12)),
            nn.Dropout(),
            nn.Flatten(),
        )
        task = ClassificationTask(net.append(nn.Linear(144, 10)), torch.optim.Adam)
        quiet: dict[str, Any] = {
            "enable_checkpointing": False,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "num_sanity_val_steps": 0,
        }
        board = TensorBoardLogger(tmp_path, "", "drawn" if callbacks else "plain")
        options: dict[str, Any] = {
            "max_epochs": 1,
            "limit_train_batches": 4,
            "log_every_n_steps": 1,
            "precision": precision,
            "logger": board,
        }
        trainer = Trainer(
            accelerator="cpu", devices=1, callbacks=list(callbacks), **quiet, **options
        )
        trainer.fit(task, datamodule=Data(batch_size=8))
        return task.state_dict()

    plain, trace_graph = trained(), trained(TensorBoardLayout(), PRCurves())
    assert all(torch.equal(plain[name], trace_graph[name]) for name in plain)
    events = EventAccumulator(str(tmp_path / "drawn"))
    events.Reload()
    assert "backbone/0/sampler/grid_sampler_2d" in {node.name for node in events.Graph().node}

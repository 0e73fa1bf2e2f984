import functools
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.plugins import MixedPrecision
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor, nn
from torch.nn import functional

from stn_lightning.backbones import FCN
from stn_lightning.batch import Batch
from stn_lightning.callbacks import TransformerMonitor, transformer_health
from stn_lightning.callbacks.transformer_health import WarpStatistics
from stn_lightning.callbacks.transformer_monitor import warp_statistics
from stn_lightning.geometry import affine, measures
from stn_lightning.tasks import ClassificationTask
from stn_lightning.transformers import (
    Affine,
    Affine3D,
    ComposedTransformer,
    FullyConnectedLocalisation,
    Nearest,
    NoisyIdentity,
    ParallelTransformer,
    Projective,
    SpatialTransformer,
    ThinPlateSpline,
    Transformer,
    Trilinear,
    record_warps,
)
from tests.reliability.processes import log, run
from tests.reliability.training import Data
from tests.transformers.doubles import At, awaken

pytestmark = [
    pytest.mark.filterwarnings(
        "ignore:The '.*_dataloader' does not have many workers"
    ),  # the data are in memory
]

OUTSIDE = [0.8, 0.1, 0.3, -0.1, 0.8, 4.0]


class Kept(TransformerMonitor):
    """Keeps what it would write."""

    def __init__(self) -> None:
        super().__init__()
        self.read: dict[str, dict[int, WarpStatistics]] = {}

    def _log(self, trainer: Trainer, name: str, reading: WarpStatistics) -> None:
        self.read.setdefault(name, {})[trainer.global_step] = reading
        super()._log(trainer, name, reading)


def looking(start: list[float] | None = None, **options: Any) -> SpatialTransformer:
    return SpatialTransformer(
        FullyConnectedLocalisation([8]),
        Affine(),
        (14, 14),
        start=At(start) if start else None,
        **options,
    )


def fit(
    transformer: Transformer | None,
    *callbacks: Callback,
    backbone: nn.Module | None = None,
    **options: Any,
) -> ClassificationTask:
    """Ten steps (of 8 images, 11 in an epoch) unless told otherwise."""
    penalty, rate = options.pop("out_of_bounds_penalty", 0.0), options.pop("lr", 0.01)
    optimizer = functools.partial(torch.optim.Adam, lr=rate)
    task = ClassificationTask(
        backbone or FCN([8]), optimizer, transformer, out_of_bounds_penalty=penalty
    )
    quiet = {
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "num_sanity_val_steps": 0,
    }
    options = {
        "max_steps": 10,
        "limit_val_batches": 0,
        "logger": False,
        "log_every_n_steps": 1,
        **quiet,
        **options,
    }
    trainer = Trainer(accelerator="cpu", devices=1, callbacks=list(callbacks), **options)
    trainer.fit(task, datamodule=Data(batch_size=8))
    return task


class Batches(Callback):
    """Keeps the images of each step."""

    def __init__(self) -> None:
        self.seen: list[Batch] = []

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Batch, batch_idx: int
    ) -> None:
        self.seen.append(batch)


# What is measured


@pytest.mark.parametrize("precision", ["32-true", "16-mixed"])
@pytest.mark.parametrize("accumulate", [1, 3])
def test_readings_are_what_one_gets_by_hand(precision: str, accumulate: int) -> None:
    """The gradient is a image's own, whatever the size of the batch, the gradient scaler and the
    accumulation.
    """
    kept, batches = Kept(), Batches()
    plugins = (
        [MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu"))]
        if precision == "16-mixed"
        else []
    )
    transformer = looking(start=[0.6, 0.1, 0.2, 0.0, 0.5, -0.3])
    task = fit(
        transformer,
        kept,
        batches,
        lr=0.0,
        max_steps=2,
        accumulate_grad_batches=accumulate,
        plugins=plugins,
    )
    batch = batches.seen[-1]
    with record_warps(task) as records:
        logits = task(batch.image)
    (record,) = records
    loss = functional.cross_entropy(logits, batch.label, reduction="sum")
    (gradient,) = torch.autograd.grad(loss, record.output.theta)
    reading, grid = kept.read["transformer"][2], record.output.grid.detach()
    close = functools.partial(pytest.approx, rel=0.05 if plugins else 1e-4)
    assert reading.gradient == close(gradient.norm(dim=1).mean().item())
    assert reading.out_of_bounds == pytest.approx(
        measures.fraction_out_of_bounds(grid).mean().item()
    )
    assert reading.largest_scale == pytest.approx(0.62298, abs=1e-4)  # of ((0.6, 0.1), (0, 0.5))
    assert reading.smallest_scale == pytest.approx(0.48156, abs=1e-4)
    moved = affine.grid(record.output.theta.detach()[:1], (14, 14)) - affine.grid(
        torch.tensor([[1.0, 0, 0, 0, 1, 0]]), (14, 14)
    )
    assert reading.displacement == pytest.approx((moved * 14).norm(dim=-1).mean().item(), rel=1e-4)
    assert reading.spread == pytest.approx(0, abs=1e-5)


SIZED: dict[str, tuple[Transformer, tuple[int, ...]]] = {
    "projective": (
        SpatialTransformer(FullyConnectedLocalisation([8]), Projective(), (9, 7)),
        (1, 12, 16),
    ),
    "spline": (
        SpatialTransformer(FullyConnectedLocalisation([8]), ThinPlateSpline(), (9, 7)),
        (1, 12, 16),
    ),
    "volume": (
        SpatialTransformer(FullyConnectedLocalisation([8]), Affine3D(), (5, 6, 7), Trilinear()),
        (1, 8, 8, 8),
    ),
    "parallel": (
        ParallelTransformer(
            FullyConnectedLocalisation([8]), Affine(), 3, (9, 7), start=NoisyIdentity(0.1)
        ),
        (1, 12, 16),
    ),
    "composed": (
        ComposedTransformer(FullyConnectedLocalisation([8]), Affine(), 2, (9, 7)),
        (1, 12, 16),
    ),
    "one pixel": (
        SpatialTransformer(FullyConnectedLocalisation([8]), Affine(), (1, 1)),
        (1, 12, 16),
    ),
}


@pytest.mark.parametrize("name", SIZED)
def test_every_kind_of_transformer_is_read(name: str) -> None:
    transformer, shape = SIZED[name]
    image = torch.rand(4, *shape)
    awaken(transformer, image)
    with record_warps(transformer) as records:
        output = transformer(image)
    records[0].output.theta.retain_grad()
    output.square().sum().backward()
    found = warp_statistics(records[0])
    assert len(found) == (3 if name == "parallel" else 1)
    for n, reading in enumerate(found):
        grid = records[0].grids[:, n]
        assert reading.out_of_bounds == pytest.approx(
            measures.fraction_out_of_bounds(grid).mean().item()
        )
        assert reading.gradient > 0
        assert reading.spread > 0
        assert (reading.mirrored == 0) is (name != "one pixel")
        assert (reading.largest_scale >= reading.smallest_scale > 0) is (name != "one pixel")


def test_a_single_image_has_no_spread() -> None:
    transformer = looking()
    with record_warps(transformer) as records:
        transformer(torch.rand(1, 1, 28, 28))
    (reading,) = warp_statistics(records[0])
    assert reading.spread != reading.spread
    assert reading.gradient != reading.gradient
    assert reading.out_of_bounds == 0


# When, and where it goes


class Counted(SpatialTransformer):
    """Counts its calls."""

    calls = 0

    def warp(self, image: Tensor, where: Tensor | None = None) -> Any:
        self.calls += 1
        return super().warp(image)


def test_only_steps_that_are_logged_are_read_and_nothing_is_computed_twice() -> None:
    kept, transformer = Kept(), Counted(FullyConnectedLocalisation([8]), Affine())
    fit(transformer, kept, log_every_n_steps=4)
    assert list(kept.read["transformer"]) == [4, 8]
    assert transformer.calls == 1 + 10  # the first sizes the layers
    assert kept.records == []


class Measured(TransformerMonitor):
    """Keeps the step of each measurement."""

    def __init__(self) -> None:
        super().__init__()
        self.steps: list[int] = []

    def _log(self, trainer: Trainer, name: str, reading: WarpStatistics) -> None:
        self.steps.append(trainer.global_step)


def test_a_step_of_several_batches_is_measured_once() -> None:
    measured = Measured()
    # an epoch has 11 batches, so that its third step has three instead of four
    fit(looking(), measured, log_every_n_steps=3, accumulate_grad_batches=4, max_steps=7)
    assert measured.steps == [3, 6]


def test_a_task_without_a_transformer_has_no_curves() -> None:
    kept = Kept()
    fit(None, kept)
    assert kept.read == {}


class Inside(nn.Module):
    """A backbone with a transformer on its features, and two in parallel before it."""

    def __init__(self) -> None:
        super().__init__()
        self.transformers = nn.ModuleList(
            [looking(), SpatialTransformer(FullyConnectedLocalisation([8]), Affine(), (7, 7))]
        )
        self.pair = ParallelTransformer(FullyConnectedLocalisation([8]), Affine(), 2, (14, 14))
        self.classifier = FCN([8])

    def forward(self, image: Tensor) -> Tensor:
        features = (
            self.transformers[1](self.transformers[0](image))
            + self.pair(image).mean(1)[..., ::2, ::2]
        )
        logits: Tensor = self.classifier(features)
        return logits


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_transformers_inside_a_backbone_are_read_under_their_names(precision: Any) -> None:
    kept = Kept()
    fit(None, kept, backbone=Inside(), precision=precision)
    assert set(kept.read) == {
        "backbone.transformers.0",
        "backbone.transformers.1",
        "backbone.pair.0",
        "backbone.pair.1",
    }
    for read in kept.read.values():
        assert len(read) == 10
        assert all(value == value for reading in read.values() for value in reading)
        assert read[10].gradient > 0


def test_curves_histograms_and_words_go_to_tensorboard(tmp_path: Path) -> None:
    board = TensorBoardLogger(tmp_path, "", "")
    fit(
        looking(start=OUTSIDE),
        TransformerMonitor(),
        logger=board,
        limit_val_batches=1,
        max_epochs=1,
        max_steps=-1,
    )
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    assert set(events.Tags()["scalars"]) >= {
        f"transformer/{name}" for name in WarpStatistics._fields
    }
    assert {f"transformer/theta.{i:02d}" for i in range(6)} == set(events.Tags()["histograms"])
    (text,) = events.Tensors("transformers/text_summary")
    assert b"has left the image" in text.tensor_proto.string_val[0]
    assert text.step == 3


# Troubles


class Deaf(nn.Module):
    """A localisation that has died: zeros for every image."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(784, 8)

    def forward(self, image: Tensor) -> Tensor:
        return functional.relu(self.layer(image.flatten(1)) - 100)


TROUBLES: dict[str, SpatialTransformer] = {
    "has left the image": looking(start=OUTSIDE),
    "has collapsed to a point": looking(start=[0.01, 0, 0.1, 0, 0.01, 0.1]),
    "is frozen": looking(sampler=Nearest()),
    "has gone constant": SpatialTransformer(Deaf(), Affine()),
}


@pytest.mark.parametrize("what", TROUBLES)
def test_a_trouble_is_told_on_the_console(
    what: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    soon = tuple(
        symptom._replace(steps=min(symptom.steps, 5)) for symptom in transformer_health.TROUBLES
    )
    monkeypatch.setattr(transformer_health, "TROUBLES", soon)
    fit(TROUBLES[what], TransformerMonitor(), lr=1e-4)
    (line,) = capsys.readouterr().out.splitlines()
    assert f"transformer {what} (" in line
    assert line.startswith(f"warning, step {6 if what == 'has gone constant' else 3}: ")


def test_a_transformer_that_is_kept_as_it_is_on_purpose_is_read_but_not_warned_of(
    capsys: pytest.CaptureFixture[str],
) -> None:
    class Hold(Callback):
        def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
            pl_module.get_submodule("transformer").requires_grad_(False)

    kept = Kept()
    fit(looking(start=OUTSIDE), Hold(), kept)
    assert kept.read["transformer"][10].out_of_bounds == 1
    assert capsys.readouterr().out == ""


class Push(Callback):
    """Drives a transformer out of the image in step 20, as a learning rate that is far too high
    would.
    """

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        if trainer.global_step == 20:
            with torch.no_grad():
                pl_module.get_parameter("transformer.regression.linear.bias").add_(
                    torch.tensor([0.0, 0, -1.8, 0, 0, 1.6])
                )


@pytest.mark.parametrize("penalty", [0.0, 1.0])
def test_one_that_was_driven_out_of_the_image_is_noticed_and_the_penalty_brings_it_back(
    penalty: float, capsys: pytest.CaptureFixture[str]
) -> None:
    kept = Kept()
    fit(
        looking([0.5, 0, 0, 0, 0.5, 0]),
        Push(),
        kept,
        lr=0.004,
        max_steps=120,
        log_every_n_steps=2,
        out_of_bounds_penalty=penalty,
    )
    first, *later = capsys.readouterr().out.splitlines()
    assert first.startswith(
        "warning, step 26: transformer has left the image "
        "(100% of its samples are out of bounds, gradient "
    )
    read = {step: reading for step, reading in kept.read["transformer"].items() if step > 20}
    if penalty:
        assert ["recovered" in line for line in later] == [True]
        assert max(reading.out_of_bounds for step, reading in read.items() if step > 100) < 0.3
    else:
        assert later == []
        assert {(reading.out_of_bounds, reading.gradient) for reading in read.values()} == {
            (1.0, 0.0)
        }


@pytest.mark.slow
def test_two_processes_are_read_without_waiting_for_each_other(tmp_path: Path) -> None:
    network = nn.Sequential(looking(start=OUTSIDE), FCN([8]))
    assert run(
        tmp_path, TransformerMonitor(), ranks=2, network=network, epochs=1, log_every_n_steps=1
    ) == [0, 0], log(tmp_path)
    told = [
        (tmp_path / f"log.{rank}").read_text().count("backbone.0 has left the image")
        for rank in range(2)
    ]
    assert told == [1, 0]


# Alive, but not following


class Aligned(Callback):
    """Logs these correlations, one an epoch, as `AlignmentLogger` does."""

    def __init__(self, *correlations: float) -> None:
        self.correlations = correlations

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        pl_module.log("val/alignment_angle", self.correlations[trainer.current_epoch])


@pytest.mark.parametrize(
    ("correlations", "said"),
    [
        ((0.1, 0.2, 0.3, 0.2), ["warning, step 22: transformer does not turn with its images"]),
        (
            (0.1, 0.2, 0.3, 0.9),
            [
                "warning, step 22: transformer does not turn with its images",
                "step 44: transformer turns with its images",
            ],
        ),
        ((0.1, 0.9, 0.9, 0.9), []),
        ((0.0, 0.0, 0.0, 0.0), []),
    ],
    ids=["never", "late", "in time", "cannot turn"],
)
def test_in_the_second_half_a_transformer_that_does_not_turn_is_told_once(
    correlations: tuple[float, ...],
    said: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(transformer_health.AlignmentHealth, "steps", 20)
    fit(looking(), Aligned(*correlations), TransformerMonitor(), max_steps=44, limit_val_batches=1)
    lines = [line for line in capsys.readouterr().out.splitlines() if "with its images" in line]
    assert [line.split(" (")[0] for line in lines] == said


def test_one_that_is_in_trouble_is_not_told_besides_that_it_does_not_turn(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(transformer_health.AlignmentHealth, "steps", 0)
    monitor = TransformerMonitor()
    fit(looking(OUTSIDE), Aligned(0.1, 0.1), monitor, max_steps=22, limit_val_batches=1)
    out = capsys.readouterr().out
    assert "transformer has left the image" in out
    assert "with its images" not in out

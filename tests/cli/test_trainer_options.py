"""Every option of Lightning's Trainer: a run honours it, or refuses it in one line."""

import inspect
import logging
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from jsonargparse import Namespace
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.plugins import MixedPrecision
from lightning.pytorch.utilities import rank_zero_only
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from stn_lightning.callbacks import EpochLogger, ParameterSummary
from stn_lightning.cli import trainer_options
from stn_lightning.cli.command import CommandLine
from stn_lightning.cli.training import run
from stn_lightning.runs.record import RunRecord
from stn_lightning.runtime.batch_norm import SyncBatchNorm
from stn_lightning.runtime.distributed import DDP
from tests.stn_command import Stn

SMALL = (
    "--config=configs/quickstart.yaml",
    "--model.init_args.backbone.init_args.num_filters=8",
    "--data.init_args.curriculum=0",
    "--trainer.log_every_n_steps=1",
)


@dataclass
class Watch(Callback):
    """What a training does, as far as the options of its Trainer change it."""

    images: list[list[int]] = field(default_factory=list)
    gradients: list[float] = field(default_factory=list)
    loaders: set[int] = field(default_factory=set)
    kept: list[Any] = field(default_factory=list)
    validations: list[int] = field(default_factory=list)
    batches: dict[str, int] = field(default_factory=lambda: {"sanity": 0, "val": 0, "test": 0})
    modes: set[str] = field(default_factory=set)
    inference: set[bool] = field(default_factory=set)
    steps: int = 0
    epochs: int = 0

    def on_train_batch_start(self, trainer: Trainer, module: LightningModule, *given: Any) -> None:
        self.images.append(given[0].indices.tolist())
        self.kept.append(trainer.train_dataloader)  # so that no other gets its id
        self.loaders.add(id(trainer.train_dataloader))
        states = {
            "anomaly": torch.is_anomaly_enabled(),
            "deterministic": torch.are_deterministic_algorithms_enabled(),
            "benchmark": torch.backends.cudnn.benchmark,
        }
        self.modes |= {name for name, on in states.items() if on}
        self.modes.add(str(next(module.parameters()).dtype))

    def on_before_zero_grad(self, trainer: Trainer, module: LightningModule, *_: Any) -> None:
        found = [p.grad.abs().max() for p in module.parameters() if p.grad is not None]
        self.gradients += [float(torch.stack(found).max())] if found else []

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        self.steps, self.epochs = trainer.global_step, trainer.current_epoch + 1

    def on_validation_batch_end(self, trainer: Trainer, *_: Any) -> None:
        self.batches["sanity" if trainer.sanity_checking else "val"] += 1
        self.inference.add(torch.is_inference_mode_enabled())
        if not trainer.sanity_checking:
            self.validations.append(trainer.fit_loop.total_batch_idx + 1)

    def on_test_batch_end(self, *_: Any) -> None:
        self.batches["test"] += 1


@dataclass
class Outcome:
    """A command, what it printed, and what it did."""

    command: CommandLine
    out: str
    watch: Watch

    @property
    def trainer(self) -> Trainer:
        trainer: Trainer = self.command.trainer
        return trainer

    def has(self, kind: type[Callback]) -> bool:
        return any(type(each) is kind for each in self.trainer.callbacks)  # type: ignore[attr-defined]


Start = Callable[..., Outcome]


@pytest.fixture
def start(
    stn: Stn, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Start]:
    """Build `stn fit` with options of the Trainer, and execute it."""
    benchmark = torch.backends.cudnn.benchmark

    def call(execute: bool = True, **options: Any) -> Outcome:
        commands: list[CommandLine] = []
        watch = Watch()

        def build(arguments: list[str]) -> CommandLine:
            command = CommandLine(arguments)
            command.trainer.callbacks.append(watch)  # type: ignore[attr-defined]
            if not execute:
                command.execute = lambda: None  # type: ignore[method-assign]
            commands.append(command)
            return command

        for handler in logging.getLogger("lightning.pytorch").handlers:
            if type(handler) is logging.StreamHandler:  # Lightning's, of all those of pytest
                monkeypatch.setattr(handler, "stream", sys.stdout)
        given = [f"--trainer.{name}={value}" for name, value in options.items()]
        assert run(["fit", *SMALL, *given], build) == 0, capsys.readouterr().err
        return Outcome(commands[0], capsys.readouterr().out, watch)

    yield call
    torch.use_deterministic_algorithms(False)
    torch.backends.cudnn.benchmark = benchmark


def most_of_them(start: Start) -> None:
    done = start(
        accelerator="cpu",
        max_epochs=3,
        limit_train_batches=4,
        limit_val_batches=2,
        limit_test_batches=1,
        check_val_every_n_epoch=2,
        num_sanity_val_steps=1,
        accumulate_grad_batches=2,
        gradient_clip_val=1e-4,
        gradient_clip_algorithm="value",
        detect_anomaly=True,
        deterministic="warn",
        inference_mode=False,
        reload_dataloaders_every_n_epochs=1,
        profiler="simple",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    watch = done.watch
    assert (len(watch.images), watch.steps, watch.epochs) == (12, 6, 3)
    assert watch.batches == {"sanity": 1, "val": 2, "test": 1}
    assert set(watch.validations) == {8}, "after the second epoch"
    assert len(watch.loaders) == 3
    assert max(watch.gradients) == pytest.approx(1e-4)
    assert watch.modes == {"anomaly", "deterministic", "torch.float32"}
    assert watch.inference == {False}
    assert "FIT Profiler Report" in done.out
    assert "run_training_batch" in done.out
    assert not list(Path("runs").rglob("events.*"))
    assert not done.has(EpochLogger)
    assert not done.has(ParameterSummary)
    assert done.command.model.device.type == "cpu"


def steps_and_a_few_images(start: Start) -> None:
    done = start(
        max_epochs=-1,
        max_steps=6,
        overfit_batches=2,
        val_check_interval=1,
        precision="64-true",
        enable_autolog_hparams=False,
        benchmark=True,
        logger=True,
        log_every_n_steps=2,
    )
    watch = done.watch
    assert (watch.steps, watch.epochs) == (6, 3)
    assert watch.images[:2] == watch.images[2:4] == watch.images[4:]
    assert watch.batches["val"] == 12, "two batches after each of six"
    assert watch.modes == {"benchmark", "torch.float64"}
    events = EventAccumulator("runs/quickstart").Reload()  # where the run is
    assert [event.step for event in events.Scalars("train/loss")] == [1, 3, 5]
    assert not done.trainer.enable_autolog_hparams


def a_clip_by_norm(start: Start) -> None:
    done = start(max_epochs=1, limit_train_batches=2, limit_val_batches=1, gradient_clip_val=1e-5)
    assert 0 < max(done.watch.gradients) <= 1.01e-5


def a_trial(start: Start) -> None:
    done = start(fast_dev_run=2)
    assert (done.watch.steps, done.watch.batches["val"]) == (2, 2)
    assert not list(Path("runs").rglob("[!.]*.*")), "it leaves nothing behind"


STOPPER = {
    "callbacks": "EarlyStopping",
    "callbacks.monitor": "val/error",
    "callbacks.verbose": "true",
    "callbacks.stopping_threshold": 101,
    "limit_train_batches": 2,
    "limit_val_batches": 1,
    "max_epochs": 5,
}


def at_least_two_epochs(start: Start) -> None:
    done = start(**STOPPER, min_epochs=2)
    assert done.watch.epochs == 2
    assert "Stopping threshold reached" in done.out


def at_least_five_steps(start: Start) -> None:
    assert start(**STOPPER, min_steps=5).watch.steps == 5


def at_most_two_seconds(start: Start) -> None:
    done = start(
        max_epochs=9999, limit_train_batches=1, limit_val_batches=1, max_time="00:00:00:02"
    )
    assert 0 < done.watch.epochs < 9999
    assert RunRecord.read(Path("runs/quickstart/results.json")).epochs == done.watch.epochs


def no_checkpoints(start: Start) -> None:
    start(max_epochs=1, limit_train_batches=1, enable_checkpointing=False)
    assert not list(Path("runs").rglob("*.ckpt"))


def several_processes(start: Start) -> None:
    """Trained for real in tests/reliability/test_distributed.py."""
    done = start(False, accelerator="cpu", devices=2, strategy="ddp", sync_batchnorm=True)
    strategy = done.trainer.strategy
    assert isinstance(strategy, DDP)
    assert (strategy.num_processes, done.trainer.num_nodes) == (2, 1)
    assert isinstance(strategy._layer_sync, SyncBatchNorm)


def several_nodes(start: Start) -> None:
    """Trained for real in tests/cluster/test_hosts.py."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MASTER_ADDR", "127.0.0.1")
        assert start(False, accelerator="cpu", num_nodes=2).trainer.num_nodes == 2


def a_plugin(start: Start) -> None:
    plugin = {
        "plugins": "MixedPrecision",
        "plugins.precision": "bf16-mixed",
        "plugins.device": "cpu",
    }
    assert isinstance(start(False, **plugin).trainer.precision_plugin, MixedPrecision)


HONOURED: dict[Callable[[Start], None], list[str]] = {
    most_of_them: [
        "accelerator",
        "max_epochs",
        "limit_train_batches",
        "limit_val_batches",
        "limit_test_batches",
        "check_val_every_n_epoch",
        "num_sanity_val_steps",
        "accumulate_grad_batches",
        "gradient_clip_algorithm",
        "detect_anomaly",
        "deterministic",
        "inference_mode",
        "reload_dataloaders_every_n_epochs",
        "profiler",
        "enable_progress_bar",
        "enable_model_summary",
    ],
    steps_and_a_few_images: [
        "max_steps",
        "overfit_batches",
        "val_check_interval",
        "log_every_n_steps",
        "precision",
        "benchmark",
        "enable_autolog_hparams",
        "logger",
    ],
    a_clip_by_norm: ["gradient_clip_val"],
    a_trial: ["fast_dev_run"],
    at_least_two_epochs: ["min_epochs", "callbacks"],
    at_least_five_steps: ["min_steps"],
    at_most_two_seconds: ["max_time"],
    no_checkpoints: ["enable_checkpointing"],
    several_processes: ["devices", "strategy", "sync_batchnorm"],
    several_nodes: ["num_nodes"],
    a_plugin: ["plugins"],
}
"""Trainings, and the options that each of them shows to be honoured."""
ALWAYS_REFUSED = {
    "default_root_dir": ("elsewhere", "choose NAME by --name"),
    "use_distributed_sampler": ("true", "the data modules divide the images"),
    "barebones": ("true", "a run writes checkpoints and a record"),
    "model_registry": ("some", "stn export writes the network"),
    "limit_predict_batches": ("2", "stn predict takes all images that it is given"),
}
"""Options that no run takes, and the end of the line that says so."""
VALUES_REFUSED = [
    ("strategy=ddp_spawn", "give ddp"),
    ("strategy=ddp_fork", "give ddp"),
    ("strategy=ddp_notebook", "give ddp"),
    ("strategy=fsdp", "a run needs whole parameters and checkpoints; give ddp"),
    ("strategy=FSDPStrategy", "FSDPStrategy: a run needs whole parameters"),
    ("strategy=deepspeed_stage_2", "give ddp"),
    ("val_check_interval=00:00:01:00 --trainer.devices=2", "give a number of batches"),
    ("num_nodes=2", "nothing starts the others; use stn submit, or torchrun"),
    ("accumulate_grad_batches=0", "give 1 or more"),
    ("devices=two", "--trainer.devices two: give a number, a list or auto"),
    ("gradient_clip_val=-1", "give 0 or more"),
    ("gradient_clip_algorithm=norm", "nothing is clipped without --trainer.gradient_clip_val"),
    ("min_epochs=9", "is more than --trainer.max_epochs"),
    ("plugins=TorchCheckpointIO", "leave out the CheckpointIO"),
    ("callbacks=BatchSizeFinder", "see what stn tune --batch-size suggests"),
    ("callbacks=LearningRateFinder", "see what stn tune suggests"),
    ("callbacks=ModelCheckpoint", "give it a dirpath of its own"),
    ("callbacks=OnExceptionCheckpoint --trainer.callbacks.dirpath=a", "from its own file"),
    ("callbacks=StochasticWeightAveraging --trainer.callbacks.swa_lrs=1", "EMAWeightAveraging"),
    ("callbacks=ModelPruning --trainer.callbacks.pruning_fn=l1_unstructured", "its masks are in"),
    ("callbacks=SpikeDetection", "Lightning cannot load what it saves of it"),
    ("max_epochs=0", "not one step was taken"),
    ("max_steps=0", "not one step was taken"),
    ("limit_train_batches=0", "not one step was taken"),
    ("max_time=00:00:00:00", "not one step was taken"),
]


def test_every_option_of_the_trainer_is_honoured_or_refused() -> None:
    options = {name for name in inspect.signature(Trainer).parameters if name != "self"}
    known = [name for names in HONOURED.values() for name in names] + list(ALWAYS_REFUSED)
    assert sorted(known) == sorted(options)


@pytest.mark.parametrize("training", HONOURED)
def test_options_do_what_they_say(training: Callable[[Start], None], start: Start) -> None:
    training(start)


@pytest.mark.filterwarnings(r"ignore:\s*Unable to serialize instance cpu")
@pytest.mark.parametrize(
    ("option", "complaint"),
    [(f"{name}={value}", end) for name, (value, end) in ALWAYS_REFUSED.items()] + VALUES_REFUSED,
)
def test_an_option_that_cannot_be_honoured_is_refused_in_one_line(
    option: str, complaint: str, stn: Stn
) -> None:
    code, _, err = stn("fit", *SMALL, "--trainer.max_epochs=1", *f"--trainer.{option}".split())
    assert (code, err.count("\n")) == (2, 1)
    assert complaint in err


def test_a_rank_left_in_the_environment_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = Trainer(accelerator="cpu", devices=1, logger=False)
    trainer_options.require_launcher(trainer)
    monkeypatch.setattr(rank_zero_only, "rank", 1)  # as Lightning reads RANK when it is imported
    with pytest.raises(ValueError, match=r"RANK.* says that this is process 1.*unset"):
        trainer_options.require_launcher(trainer)


def test_a_network_whose_weights_are_in_bfloat16_trains(start: Start) -> None:
    """The start of `MomentCrop` inverts a matrix, which no half precision can."""
    done = start(precision="bf16-true", max_epochs=1, limit_train_batches=1, limit_val_batches=1)
    assert "torch.bfloat16" in done.watch.modes


@pytest.mark.parametrize(
    ("devices", "several"),
    [(1, False), ("1", False), ("0,", False), ("0,1", True), ([0, 1], True), ("auto", False)],
)
def test_devices_are_counted_as_lightning_counts_them(devices: object, several: bool) -> None:
    options = Namespace(devices=devices, num_nodes=1, accelerator="cpu")  # type: ignore[no-untyped-call]  # jsonargparse does not type it
    assert trainer_options.several_processes(options) is several


def test_a_progress_bar_of_the_users_takes_the_place_of_ours(start: Start) -> None:
    assert not start(False, callbacks="TQDMProgressBar").has(EpochLogger)


def test_the_test_after_a_training_is_of_the_averaged_weights(start: Start, stn: Stn) -> None:
    """Of those that were validated, and that a test by itself and an export take."""
    few = {"limit_train_batches": 8, "limit_val_batches": 1, "max_epochs": 1}
    start(**few, callbacks="EMAWeightAveraging", **{"callbacks.decay": 0.5})
    record = Path("runs/quickstart/results.json")
    after_training = RunRecord.read(record).metrics
    code, _, err = stn("test", "--name=quickstart")
    assert (code, err) == (0, "")
    assert RunRecord.read(record).metrics["test/loss"] == after_training["test/loss"]

"""A small training with everything that must survive a stop: order, dropout, momentum, schedule,
weight averaging, accumulation.

It runs within a test, or in processes that are signalled and killed
(`tests.reliability.processes`).
"""

import copy
import functools
import hashlib
import json
import os
import resource
import signal
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer, seed_everything
from lightning.pytorch.callbacks import EarlyStopping, EMAWeightAveraging
from torch import Tensor, nn

from stn_lightning.batch import Split
from stn_lightning.callbacks import LabelCheck
from stn_lightning.cli.training import run
from stn_lightning.datamodules import MNISTDataModule
from stn_lightning.datasets import EmbeddedDigits, ImageTensorDataset
from stn_lightning.runtime import signals
from stn_lightning.runtime.batch_norm import AverageBatchNorm
from stn_lightning.runtime.checkpoint_io import AtomicCheckpointIO, newest_loadable
from stn_lightning.runtime.checkpointing import AtomicCheckpoint
from stn_lightning.runtime.distributed import DDP
from stn_lightning.runtime.exact_resume import ExactResume
from stn_lightning.runtime.guards import NonFiniteGuard
from stn_lightning.runtime.preemption import Preemption
from stn_lightning.tasks import ClassificationTask, CosineDecay
from stn_lightning.tasks.classification import OptimizerCallable
from stn_lightning.transformers import Affine, SpatialTransformer, Transformer

ADAM = functools.partial(torch.optim.AdamW, lr=0.01)


@functools.cache
def _digits(split: Split) -> ImageTensorDataset:
    return EmbeddedDigits().load(split)


SIZES: dict[Split, int] = {"train": 83, "val": 26, "test": 31}


class FewDigits(EmbeddedDigits):
    """The first of the embedded digits: 11 batches of 8 to train on, with a remainder; 26 to
    validate, 31 to test.
    """

    def load(self, split: Split) -> ImageTensorDataset:
        images = _digits(split)
        return ImageTensorDataset(*(part[: SIZES[split]] for part in images))


class TinyDigits(EmbeddedDigits):
    """A few images in validation and test, fewer than there are processes."""

    def __init__(self, size: int) -> None:
        self.size = size

    def load(self, split: Split) -> ImageTensorDataset:
        size = SIZES["train"] if split == "train" else self.size
        return ImageTensorDataset(*(part[:size] for part in _digits(split)))


class Data(MNISTDataModule):
    def __init__(self, workers: int = 0, **options: Any) -> None:
        super().__init__(FewDigits(), **options)
        self.num_workers = workers


class Plateau(ClassificationTask):
    """Changes its learning rate at the end of every epoch but the first, depending on the
    validation before.
    """

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.SGD(self.parameters(), 0.1, momentum=0.9)
        schedule = torch.optim.lr_scheduler.ReduceLROnPlateau(
            optimizer, "max", factor=0.9, patience=0
        )
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": schedule, "monitor": "val/loss", "strict": False},
        }


class Record(Callback):
    """Writes a line for each training batch and each validation, which two trainings can be
    compared by.
    """

    def __init__(self, file: Path) -> None:
        self.file = file

    def say(self, *values: Any) -> None:
        with self.file.open("a") as file:
            file.write(json.dumps(values) + "\n")

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        rate = trainer.optimizers[0].param_groups[0]["lr"]
        where = (trainer.current_epoch, batch_idx, trainer.global_step)
        self.say(
            "train",
            trainer.global_rank,
            *where,
            outputs["loss"].item(),
            rate,
            batch.indices.tolist(),
        )

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not trainer.sanity_checking:
            values = {
                name: float(value)
                for name, value in sorted(trainer.callback_metrics.items())
                if name.startswith("val")
            }
            self.say("val", trainer.global_rank, trainer.current_epoch, trainer.global_step, values)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.say("epoch", trainer.global_rank, trainer.current_epoch, weights_hash(pl_module))


END = -1


class Do(Callback):
    """Does something at one batch of the training, of the validation or END of epoch that follows
    it, in one process or all.
    """

    def __init__(
        self,
        action: Callable[[], object],
        batch: int,
        val_batch: int | None = None,
        rank: int | None = None,
    ) -> None:
        self.action, self.batch, self.val_batch, self.rank = action, batch, val_batch, rank

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        if self.val_batch is None and self._is_now(trainer):
            self.action()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.val_batch == END and self._is_now(trainer):
            self.action()

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        *_: Any,
    ) -> None:
        if not trainer.sanity_checking and batch_idx == self.val_batch and self._is_now(trainer):
            self.action()

    def _is_now(self, trainer: Trainer) -> bool:
        return trainer.fit_loop.total_batch_idx == self.batch and self.rank in (
            None,
            trainer.global_rank,
        )


class Poison(Callback):
    """Puts a value into the loss, or into a gradient, of one step."""

    def __init__(self, step: int, value: float, *, gradient: bool = False, rank: int = 0) -> None:
        self.step, self.value, self.gradient, self.rank = step, value, gradient, rank

    def on_before_backward(
        self, trainer: Trainer, pl_module: LightningModule, loss: Tensor
    ) -> None:
        if (trainer.global_step, trainer.global_rank) == (
            self.step,
            self.rank,
        ) and not self.gradient:
            loss.data.fill_(self.value)

    def on_after_backward(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if (trainer.global_step, trainer.global_rank) == (self.step, self.rank) and self.gradient:
            next(pl_module.parameters()).grad.view(-1)[3] = self.value  # type: ignore[union-attr]


class Statistics(AverageBatchNorm):
    """Writes down the running means and variances of before and in validation."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.own: list[list[float]] = []

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *rest: Any) -> None:
        self.own = self.read(pl_module)
        super().on_train_batch_end(trainer, pl_module, *rest)

    @staticmethod
    def read(module: LightningModule) -> list[list[float]]:
        layer: Any = module.backbone[2]  # type: ignore[index]
        return [layer.running_mean.tolist(), layer.running_var.tolist()]

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        together = self.read(pl_module)
        with self.file.open("a") as file:
            file.write(json.dumps([trainer.global_rank, self.own, together]) + "\n")


class Draws(Callback):
    """Writes a random number of each process in each step."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def on_train_batch_start(self, trainer: Trainer, *_: Any) -> None:
        number = torch.rand(()).item()
        with self.file.open("a") as out:  # a short line is written at once
            out.write(json.dumps([trainer.global_rank, trainer.global_step, number]) + "\n")


class Slowly(Callback):
    """Time to be signalled in."""

    def __init__(self, seconds: float = 0.02) -> None:
        self.seconds = seconds

    def on_train_batch_end(self, *_: Any) -> None:
        time.sleep(self.seconds)


def stop() -> None:
    signal.raise_signal(signal.SIGTERM)


def hang() -> None:
    time.sleep(600)


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def fill_disk() -> None:
    """As far as this process can tell: files end after so many bytes."""
    resource.setrlimit(
        resource.RLIMIT_FSIZE, (30_000, resource.getrlimit(resource.RLIMIT_FSIZE)[1])
    )


def weights_hash(module: nn.Module) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(
            name.encode() + tensor.detach().cpu().reshape(-1).view(torch.uint8).numpy().tobytes()
        )
    return digest.hexdigest()


def backbone(dropout: float, norm: bool = False) -> nn.Module:
    middle: list[nn.Module] = [nn.BatchNorm1d(12)] if norm else []
    return nn.Sequential(
        nn.Flatten(), nn.Linear(784, 12), *middle, nn.Tanh(), nn.Dropout(dropout), nn.Linear(12, 10)
    )


def looking() -> nn.Module:
    """A backbone behind a transformer."""
    localisation = nn.Sequential(nn.Flatten(), nn.Linear(784, 8), nn.Tanh())
    return nn.Sequential(SpatialTransformer(localisation, Affine()), backbone(0.0))


def train(
    folder: Path,
    *extra: Callback,
    resume: bool | Path = True,
    ranks: int = 1,
    workers: int = 0,
    batch_size: int = 8,
    dropout: float = 0.2,
    norm: bool = False,
    ema: bool = False,
    patience: int | None = None,
    seconds: float | None = None,
    keep: int = 1,
    monitor: str = "val/error",
    mode: Any = "min",
    sanity: int = 0,
    guard: NonFiniteGuard | None = None,
    network: nn.Module | None = None,
    plugins: Sequence[Any] = (),
    epochs: int = 3,
    plateau: bool = False,
    ddp: dict[str, Any] | None = None,
    optimizer: OptimizerCallable = ADAM,
    **options: Any,
) -> Trainer:
    """Train in `folder`, going on where it was stopped; `ddp` are options of the strategy on
    several processes.
    """
    seed_everything(1, verbose=False)
    own = copy.deepcopy(network) or backbone(
        dropout, norm
    )  # what processes are given lies in memory that they share
    task = (Plateau if plateau else ClassificationTask)(own, optimizer, schedule=CosineDecay(0.1))
    data = Data(workers, batch_size=batch_size, seed=1)
    callbacks: list[Callback] = [
        *([EMAWeightAveraging(decay=0.9)] if ema else []),
        Record(folder / "record.jsonl"),
        *extra,
    ]
    if patience is not None:
        callbacks.append(EarlyStopping("val/loss", patience=patience))
    checkpoints = AtomicCheckpoint(folder / "checkpoints", monitor, mode, keep, seconds)
    folder.mkdir(parents=True, exist_ok=True)
    options.setdefault("max_epochs", None if "max_steps" in options else epochs)
    options.setdefault("default_root_dir", folder)
    options.update(plugins=[AtomicCheckpointIO(), *plugins], num_sanity_val_steps=sanity)
    callbacks += [guard or NonFiniteGuard(), LabelCheck(), ExactResume(), checkpoints, Preemption()]
    trainer = _trainer(ranks, callbacks, DDP(**(ddp or {})), **options)
    found = newest_loadable(folder / "checkpoints").path if resume is True else resume or None
    try:
        trainer.fit(task, datamodule=data, ckpt_path=found, weights_only=True)
    finally:  # of what a process ends with, where this one goes on
        signals.release()
        trainer.fit_loop.teardown()
    return trainer


def _trainer(ranks: int, callbacks: list[Callback], ddp: DDP, **options: Any) -> Trainer:
    return Trainer(
        accelerator="cpu",
        devices=ranks,
        strategy=ddp if ranks > 1 else "auto",
        callbacks=callbacks,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=bool(callbacks),
        **options,
    )


def evaluate(
    folder: Path,
    *callbacks: Callback,
    ranks: int = 1,
    batch_size: int = 8,
    transformer: Transformer | None = None,
    **options: Any,
) -> None:
    """Test an untrained network, on 31 images, and write down what came of it.

    `options` are those of the data module.
    """
    seed_everything(1, verbose=False)
    optimizer = functools.partial(torch.optim.SGD, lr=0.0)
    task = ClassificationTask(backbone(0.0), optimizer, copy.deepcopy(transformer))
    trainer = _trainer(ranks, list(callbacks), DDP())
    (results,) = trainer.test(
        task, datamodule=Data(batch_size=batch_size, **options), verbose=False
    )
    (folder / f"results.{trainer.global_rank}").write_text(json.dumps(results))


def command(folder: Path, *extra: Callback, **settings: Any) -> None:
    """Train as `stn fit` does, and end with its exit code."""

    class Command:
        class first_step:  # noqa: N801  # the command's attribute
            done = True

        def execute(self) -> None:
            train(folder, *extra, **settings)

    sys.exit(run(["fit"], lambda _: Command()))  # type: ignore[arg-type, return-value]


def stn(folder: Path, *arguments: Any, ranks: int = 1) -> None:
    """Run `stn` in `folder`, as one of several processes."""
    os.chdir(folder)
    sys.exit(run([*arguments, "--trainer.devices", str(ranks), "--trainer.accelerator", "cpu"]))


def key_error() -> None:
    """Stand for a bug."""
    raise KeyError("of the user's own")


def record(folder: Path, *kinds: str) -> list[Any]:
    lines = [json.loads(line) for line in (folder / "record.jsonl").read_text().splitlines()]
    return [line for line in lines if line[0] in kinds or not kinds]

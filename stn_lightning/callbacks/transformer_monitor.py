"""What transformers do while they train, as curves, and a warning in words when one is in trouble."""

import contextlib
import math
from collections.abc import Iterator
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from torch import Tensor

from stn_lightning.callbacks.transformer_health import Reading, TransformerHealth
from stn_lightning.geometry import measures
from stn_lightning.tasks import StepOutput
from stn_lightning.transformers import Transformer, WarpRecord, record_warps


class TransformerMonitor(Callback):
    """Reads all transformers of a task, wherever they are in it, on the training batch of every
    step that Lightning logs.

    Everything is taken from what the step computes anyway; in other steps nothing is done. With
    several processes the first one writes what it sees of the batch. Curves are called
    `<transformer>/<number>`, the number being one of `Reading`; warnings go to the console and to
    TensorBoard's texts. After each epoch come histograms of the numbers of theta over the first
    validation batch.
    """

    def __init__(self) -> None:
        self.records: list[WarpRecord] = []
        self.loss_scale = 1.0
        self.patients: dict[str, TransformerHealth] = {}
        self._watch = contextlib.ExitStack()

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        every = trainer.log_every_n_steps  # type: ignore[attr-defined]  # Lightning sets it without declaring it
        if every and (trainer.global_step + 1) % every == 0:
            self._watch.close()
            if trainer.is_global_zero:
                self.records = self._watch.enter_context(record_warps(pl_module))

    def on_before_backward(
        self, trainer: Trainer, pl_module: LightningModule, loss: Tensor
    ) -> None:
        for look in self.records:
            if look.output.theta.requires_grad:
                look.output.theta.retain_grad()
        scaler = getattr(trainer.precision_plugin, "scaler", None)
        if self.records and scaler is not None:
            self.loss_scale = scaler.get_scale()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._watch.close()
        factor = trainer.accumulate_grad_batches / self.loss_scale
        for name, look in _named(pl_module, self.records):
            for n, reading in enumerate(read_warps(look, factor)):
                part = name if look.thetas.shape[1] == 1 else f"{name}.{n}"
                self._write(trainer, part, reading)
                if look.output.theta.requires_grad:  # else it is kept as it is on purpose
                    self._examine(trainer, part, reading)
        self.records = []

    def on_validation_batch_end(  # type: ignore[override]  # Lightning types outputs as tensors
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: StepOutput,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        if batch_idx or dataloader_idx or trainer.sanity_checking or not trainer.is_global_zero:
            return
        for name, record in _named(pl_module, outputs.records):
            for number, values in enumerate(record.thetas.float().flatten(1).unbind(1)):
                for logger in _boards(trainer):
                    tag = f"{name}/theta.{number:02d}"
                    logger.experiment.add_histogram(tag, values.cpu(), trainer.global_step)

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        self._watch.close()
        self.records = []

    def _write(self, trainer: Trainer, name: str, reading: Reading) -> None:
        values = {
            f"{name}/{key}": value
            for key, value in reading._asdict().items()
            if math.isfinite(value)
        }
        for logger in trainer.loggers:  # not self.log, which would wait for the other processes
            logger.log_metrics(values, trainer.global_step)

    def _examine(self, trainer: Trainer, name: str, reading: Reading) -> None:
        words = self.patients.setdefault(name, TransformerHealth(name)).examine(
            reading, trainer.global_step
        )
        if words is None:
            return
        print(words, flush=True)
        for logger in _boards(trainer):
            logger.experiment.add_text("transformers", words, trainer.global_step)


@torch.no_grad()
def read_warps(look: WarpRecord, factor: float = 1.0) -> list[Reading]:
    """Of each of the `n` transformers that looked. The device is waited for once.

    Args:
        factor: by which the gradient of theta is too small.
    """
    numbers = []
    for n, grid in enumerate(look.grids.detach().unbind(1)):
        unknown = grid.new_tensor(math.nan)
        single, flat = len(grid) < 2, min(grid.shape[1:-1]) < 2
        scale = unknown.repeat(1, 1, 1) if flat else measures.scales(grid, look.image_size)
        gradient = look.output.theta.grad if look.output.theta.retains_grad else None
        reading = (
            measures.fraction_out_of_bounds(grid).mean(),
            scale[..., 0].median(),
            scale[..., -1].median(),
            measures.displacement(grid, look.image_size).median(),
            unknown if single else measures.spread(grid, look.image_size),
            unknown
            if gradient is None
            else gradient.reshape(look.thetas.shape)[:, n].norm(dim=-1).sum() * factor,
        )
        numbers.append(torch.stack([value.to(grid.dtype) for value in reading]))
    return [Reading(*values) for values in torch.stack(numbers).tolist()]


def _named(pl_module: LightningModule, looks: list[WarpRecord]) -> Iterator[tuple[str, WarpRecord]]:
    """The last look of each transformer, under its name in the task."""
    if (
        not looks
    ):  # most steps are not looked at, and going through all parts of a task takes a while
        return
    last = {id(look.transformer): look for look in looks}
    for name, module in pl_module.named_modules():
        if isinstance(module, Transformer) and id(module) in last:
            yield name, last[id(module)]


def _boards(trainer: Trainer) -> list[TensorBoardLogger]:
    return [logger for logger in trainer.loggers if isinstance(logger, TensorBoardLogger)]

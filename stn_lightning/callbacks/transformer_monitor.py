"""Log statistics of transformers; warn if one does not train."""

import contextlib
import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from torch import Tensor

from stn_lightning.callbacks.transformer_health import (
    AlignmentHealth,
    TransformerHealth,
    WarpStatistics,
)
from stn_lightning.geometry import measures
from stn_lightning.tasks import StepOutput
from stn_lightning.transformers import Transformer, WarpRecord, record_warps

BINS = 32
"""number of bins of a histogram; TensorBoard's default, 1,500, takes ten times the space"""


class TransformerMonitor(Callback):
    """Log statistics of all transformers of a task.

    In steps that are logged, the fields of `WarpStatistics` are measured on the training batch (of
    the first process) and logged as `<transformer>/<field>`. Warnings are printed, and written to
    TensorBoard's texts. After each epoch, histograms of theta over the first validation batch are
    logged. If `AlignmentLogger` measures that crops do not rotate with the images, this is warned
    of, too.

    Examples:
        >>> monitor = TransformerMonitor()
        >>> trainer = Trainer(callbacks=[monitor], logger=False, accelerator="cpu")
    """

    def __init__(self) -> None:
        self.records: list[WarpRecord] = []
        self.loss_scale = 1.0
        self.health: dict[str, TransformerHealth] = {}
        self.alignment = AlignmentHealth()
        self._recording = contextlib.ExitStack()

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        every = trainer.log_every_n_steps  # type: ignore[attr-defined]  # Lightning sets it without declaring it
        # once a step, if its gradient is of several batches
        last = (batch_idx + 1) % trainer.accumulate_grad_batches == 0 or trainer.is_last_batch
        if every and last and (trainer.global_step + 1) % every == 0:
            self._recording.close()
            if trainer.is_global_zero:
                self.records = self._recording.enter_context(record_warps(pl_module))

    def on_before_backward(
        self, trainer: Trainer, pl_module: LightningModule, loss: Tensor
    ) -> None:
        for record in self.records:
            if record.output.theta.requires_grad:
                record.output.theta.retain_grad()
        scaler = getattr(trainer.precision_plugin, "scaler", None)
        if self.records and scaler is not None:
            self.loss_scale = scaler.get_scale()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._recording.close()
        factor = trainer.accumulate_grad_batches / self.loss_scale
        for name, record in _named(pl_module, self.records):
            each = warp_statistics(record, factor)
            for n, statistics in enumerate(each):
                own = name if len(each) == 1 else f"{name}.{n}"
                self._log(trainer, own, statistics)
                if record.output.theta.requires_grad:  # otherwise it is frozen on purpose
                    self._warn(trainer, own, statistics)
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
                for logger in _tensorboards(trainer):
                    tag = f"{name}/theta.{number:02d}"
                    if len(values):
                        logger.experiment.add_histogram(
                            tag, values.cpu(), trainer.global_step, bins=BINS
                        )

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        correlation = trainer.callback_metrics.get("val/alignment_angle")
        in_trouble = any(health.reported for health in self.health.values())
        if trainer.state.fn != "fit" or correlation is None or in_trouble:
            return
        progress = trainer.global_step / trainer.estimated_stepping_batches
        message = self.alignment.update(float(correlation), progress, trainer.global_step)
        self._say(trainer, message)

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        self._recording.close()
        self.records = []

    def _log(self, trainer: Trainer, name: str, statistics: WarpStatistics) -> None:
        values = {
            f"{name}/{key}": value
            for key, value in statistics._asdict().items()
            if math.isfinite(value)
        }
        for logger in trainer.loggers:  # not by `log`, which waits for the other processes
            logger.log_metrics(values, trainer.global_step)

    def _warn(self, trainer: Trainer, name: str, statistics: WarpStatistics) -> None:
        health = self.health.setdefault(name, TransformerHealth(name))
        self._say(trainer, health.update(statistics, trainer.global_step))

    def _say(self, trainer: Trainer, message: str | None) -> None:
        if message and trainer.is_global_zero:
            print(message, flush=True)
            for logger in _tensorboards(trainer):
                logger.experiment.add_text("transformers", message, trainer.global_step)


@torch.no_grad()
def warp_statistics(record: WarpRecord, factor: float = 1.0) -> list[WarpStatistics]:
    """Measure each parallel transformer of a record.

    Args:
        record: record of a batch, which may be empty.
        factor: factor by which to multiply the gradient of theta, which gradient accumulation and
            loss scaling have changed.
    """
    if not len(record.thetas):
        return [WarpStatistics()] * record.thetas.shape[1]
    theta, rows = record.output.theta, []
    for n, grid in enumerate(record.grids.detach().unbind(1)):
        unknown = grid.new_tensor(math.nan)
        single, flat = len(grid) < 2, min(grid.shape[1:-1]) < 2
        scale = unknown.repeat(1, 1, 1) if flat else measures.scales(grid, record.image_size)
        gradient = unknown
        if theta.retains_grad and theta.grad is not None:
            gradient = theta.grad.reshape(record.thetas.shape)[:, n].norm(dim=-1).sum() * factor
        row = (
            measures.fraction_out_of_bounds(grid).mean(),
            scale[..., 0].median(),
            scale[..., -1].median(),
            measures.displacement(grid, record.image_size).median(),
            unknown if single else measures.spread(grid, record.image_size),
            gradient,
            unknown if flat else measures.is_mirrored(grid).float().mean(),
        )
        rows.append(torch.stack([value.to(grid.dtype) for value in row]))
    return [WarpStatistics(*values) for values in torch.stack(rows).tolist()]  # waits for the GPU


def _named(
    pl_module: LightningModule, records: Sequence[WarpRecord]
) -> Iterator[tuple[str, WarpRecord]]:
    """Yield the last record of each transformer with its name."""
    if not records:  # in most steps; saves going through all modules
        return
    last = {id(record.transformer): record for record in records}
    for name, module in pl_module.named_modules():
        if isinstance(module, Transformer) and id(module) in last:
            yield name, last[id(module)]


def _tensorboards(trainer: Trainer) -> list[TensorBoardLogger]:
    return [logger for logger in trainer.loggers if isinstance(logger, TensorBoardLogger)]

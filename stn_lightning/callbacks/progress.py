"""Print a line for each epoch of a training."""

from typing import Any

from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ProgressBar

from stn_lightning.callbacks.throughput import ThroughputLogger
from stn_lightning.runtime.precision import emulates_bf16


class EpochLogger(ProgressBar):
    """Print one line after each epoch.

    After a resume an epoch may have no batch left; it has had its line.

    Examples:
        >>> trainer = Trainer(callbacks=[EpochLogger()], logger=False, accelerator="cpu")
    """

    def __init__(self) -> None:
        super().__init__()
        self._enabled = True
        self._trained = False

    def disable(self) -> None:
        self._enabled = False

    def enable(self) -> None:
        self._enabled = True

    def on_train_batch_end(self, *_: Any) -> None:
        self._trained = True

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        trained, self._trained = self._trained, False
        if not (self._enabled and trainer.is_global_zero and trained):
            return
        shown = {"train/loss": "loss {:.4f}", "val/error": "validation error {:.2f} %"}
        values = {key: float(value) for key, value in trainer.callback_metrics.items()}
        parts = [form.format(values[key]) for key, form in shown.items() if key in values]
        rates = [
            f"{each.epoch_rate:.0f} images/s"
            for each in trainer.callbacks  # type: ignore[attr-defined]
            if isinstance(each, ThroughputLogger)
        ]
        known = trainer.max_epochs is not None and trainer.max_epochs > 0
        print(
            f"epoch {trainer.current_epoch + 1:3d}" + (f"/{trainer.max_epochs}" if known else ""),
            *parts,
            *rates,
            sep="  ",
            flush=True,
        )


class ParameterSummary(Callback):
    """Print parameters, device and precision before training.

    Examples:
        >>> trainer = Trainer(callbacks=[ParameterSummary()], logger=False, accelerator="cpu")
    """

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not trainer.is_global_zero:
            return
        counts = {
            name: sum(p.numel() for p in child.parameters())
            for name, child in pl_module.named_children()
        }
        parts = ", ".join(f"{name} {count:,}" for name, count in counts.items() if count)
        device, precision = pl_module.device.type, trainer.precision
        devices = f"{trainer.world_size} x {device}" if trainer.world_size > 1 else device
        print(
            f"{sum(counts.values()):,} parameters ({parts}) on {devices}, precision {precision}",
            flush=True,
        )
        if device == "cpu" and precision.startswith("bf16") and emulates_bf16():
            print(
                f"this processor computes bfloat16 in software, so {precision} takes several times "
                "as long as 32-true",
                flush=True,
            )

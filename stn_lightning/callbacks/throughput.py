"""Measure the speed of a training."""

import time
from typing import Any

from lightning import Callback, LightningModule, Trainer

from stn_lightning.batch import Batch


class ThroughputLogger(Callback):
    """Log images per second and seconds per epoch, without validation.

    The images of all processes count. Totals are saved in checkpoints and continued after a resume.

    Examples:
        >>> trainer = Trainer(callbacks=[ThroughputLogger()], logger=False, accelerator="cpu")
    """

    def __init__(self) -> None:
        self.samples = 0
        self.seconds = 0.0
        self.epoch_rate = 0.0
        self._epoch_samples = 0
        self._epoch_seconds = 0.0
        self._since: float | None = None

    @property
    def images_per_second(self) -> float:
        """Mean speed of the training so far."""
        return self.samples / self.seconds if self.seconds else 0.0

    def _stop(self) -> None:
        if self._since is not None:
            elapsed = time.perf_counter() - self._since
            self.seconds += elapsed
            self._epoch_seconds += elapsed
            self._since = None

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._epoch_samples, self._epoch_seconds = 0, 0.0

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Batch, batch_idx: int
    ) -> None:
        if self._since is None:
            self._since = time.perf_counter()

    def on_train_batch_end(
        self, trainer: Trainer, _: LightningModule, outputs: Any, batch: Batch, *rest: Any
    ) -> None:
        if len(batch.label):  # always true on the first process, which saves the totals
            images = round(len(batch.label) * trainer.world_size / batch.share)  # of all processes
            self.samples += images
            self._epoch_samples += images

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._stop()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._stop()
        if self._epoch_seconds:
            self.epoch_rate = self._epoch_samples / self._epoch_seconds
            rates = {
                "speed/images_per_second": self.epoch_rate,
                "speed/epoch_seconds": self._epoch_seconds,
            }
            for logger in trainer.loggers:  # not by `log`, which waits for the other processes
                logger.log_metrics(rates, trainer.global_step)

    def state_dict(self) -> dict[str, Any]:
        if self._since is not None:  # saved in the middle of an epoch
            self._stop()
            self._since = time.perf_counter()
        return {"samples": self.samples, "seconds": self.seconds}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.samples, self.seconds = state_dict["samples"], state_dict["seconds"]

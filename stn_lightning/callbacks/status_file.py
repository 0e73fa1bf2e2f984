"""Write the status of a run into a small file."""

import json
import os
import time
from pathlib import Path
from typing import Any

from lightning import Callback, LightningModule, Trainer

from stn_lightning.callbacks.record_writer import RecordWriter
from stn_lightning.runtime.atomic_files import MACHINE, atomic_write, only_informs
from stn_lightning.runtime.distributed import lost_process_reason
from stn_lightning.runtime.preemption import Preempted

SHOWN = ("val/error", "val/loss", "test/error")


class StatusFile(Callback):
    """Write `state.json` into the trainer's `default_root_dir`.

    It has the state of the run, its epoch and metrics, machine, process and SLURM job. The first
    process writes it at the start, after each epoch, and at the end, also after an error. A test
    without training writes it only if the training has ended, as another process may be training,
    and if `RecordWriter` writes the run's record.

    Examples:
        >>> trainer = Trainer(callbacks=[StatusFile()], logger=False, accelerator="cpu")
    """

    def __init__(self) -> None:
        self.began = 0.0
        self.first_epoch = 0
        self.trains = False

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self.trains = self.trains or stage == "fit"

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.began, self.first_epoch = time.time(), trainer.current_epoch
        self._write(trainer, "training", trainer.current_epoch)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._write(trainer, "training", trainer.current_epoch + 1, metrics=_metrics(trainer))

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._write(trainer, "trained", trainer.current_epoch)

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        metrics = _metrics(trainer)
        callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
        writers = [each for each in callbacks if isinstance(each, RecordWriter)]
        if not any(each.mismatch(trainer) for each in writers):
            self._write(trainer, "tested", metrics=metrics)

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        self._write(
            trainer,
            "stopped" if isinstance(exception, Preempted) else "failed",
            why=(lost_process_reason(exception) or str(exception)).partition("\n")[0],
        )

    def _write(
        self,
        trainer: Trainer,
        doing: str,
        epoch: int | None = None,
        metrics: dict[str, float] | None = None,
        why: str | None = None,
    ) -> None:
        if not trainer.is_global_zero or trainer.fast_dev_run or trainer.sanity_checking:  # type: ignore[attr-defined]  # Lightning sets it
            return
        file = Path(trainer.default_root_dir) / "state.json"  # trainer.log_dir waits for processes
        before = _before(file)
        if not self.trains and (doing != "tested" or not _is_trained(before)):
            return
        epoch = before.get("epoch", 0) if epoch is None else epoch
        trained, epoch_seconds = epoch - self.first_epoch, before.get("epoch_seconds")
        if self.began and trained > 0:
            epoch_seconds = (time.time() - self.began) / trained
        state = {
            "doing": doing,
            "epoch": epoch,
            "epochs": trainer.max_epochs if trainer.max_epochs and trainer.max_epochs > 0 else None,
            "epoch_seconds": epoch_seconds,
            "metrics": {**before.get("metrics", {}), **(metrics or {})},
            "why": why,
            "machine": MACHINE,
            "process": os.getpid(),
            "job": os.environ.get("SLURM_JOB_ID"),
            "time": time.time(),
        }
        with only_informs(file):
            file.parent.mkdir(parents=True, exist_ok=True)
            with atomic_write(file) as out:
                out.write((json.dumps(state, indent=1) + "\n").encode())


def _is_trained(before: dict[str, Any]) -> bool:
    """Return True if training has ended, or nothing is known."""
    at_the_end = before.get("epoch") == before.get("epochs")
    return at_the_end or before.get("doing") in ("trained", "tested")


def _before(file: Path) -> dict[str, Any]:
    """Return the file's content; {} if it is unreadable."""
    if file.exists():
        with only_informs(file):
            return dict(json.loads(file.read_text()))
    return {}


def _metrics(trainer: Trainer) -> dict[str, float]:
    """Return the metrics to show; every process must call it."""
    return {
        key: round(float(value), 4)
        for key, value in trainer.callback_metrics.items()
        if key in SHOWN
    }

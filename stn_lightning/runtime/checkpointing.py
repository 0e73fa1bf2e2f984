"""The schedule of checkpoints, and the choice of the best.

Lightning's `ModelCheckpoint` is not used, for these reasons:

- Three of them are needed to keep the best checkpoint under a fixed name, the last of each epoch,
  and the last by time; and Lightning refuses two with the same metric.
- It does not update `last.ckpt` after an epoch that did not improve the metric.
- Its state contains an absolute path, so that it forgets the best checkpoint if the folder is
  moved.
- Checkpoints that it saves after a validation or at the end of an epoch resume without the metric
  of early stopping, or the step of a `ReduceLROnPlateau`.

Here `last.ckpt` is written before each validation, so that a training that stops during the
validation repeats it. `best.ckpt` is a copy of `last.ckpt`, so that damage to one file does not
affect the other.
"""

import math
import os
import shutil
import time
from pathlib import Path
from typing import Any, Literal

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint

from stn_lightning.runtime.atomic_files import atomic_write, remove_stale, temporary_path
from stn_lightning.runtime.checkpoint_io import (
    LAST,
    AtomicCheckpointIO,
    BadCheckpointError,
    load_checkpoint,
)
from stn_lightning.runtime.checkpoint_size import require_free_space, state_after_a_step
from stn_lightning.runtime.distributed import all_reduce_max, fail_together, on_rank_zero
from stn_lightning.runtime.exact_resume import what_follows
from stn_lightning.runtime.lightning_internals import may_stop_early, validation_follows
from stn_lightning.runtime.monitors import (
    refuse_misspelt_monitors,
    unknown_monitor,
    validation_metrics,
)

BEST = "best.ckpt"


class AtomicCheckpoint(Checkpoint):
    """Keep `last.ckpt` and `best.ckpt`.

    `last.ckpt` is written before the first step, before each validation, at the end of each epoch
    and every `seconds`. Before the first step a trial checkpoint of full size, including the
    optimiser's moments, is written and read back. So a folder that cannot be written, a disk that
    is too small, or a value that cannot be read again is an error before training begins.

    Args:
        folder: folder for the checkpoints of this run only.
        monitor: validation metric by which checkpoints are ranked; without one there is no
            `best.ckpt`.
        mode: whether the best value is the smallest ("min") or the largest ("max").
        keep: number of best checkpoints to keep. The best is `best.ckpt`; with more than one, all
            are kept under the number of their step, too.
        seconds: time between two writings of `last.ckpt`, by the clock of rank 0; None to write it
            only at the times above.

    Raises:
        ValueError: `folder` has checkpoints that this training would overwrite, although it does
            not resume from them.
    """

    def __init__(
        self,
        folder: str | Path,
        monitor: str | None = None,
        mode: Literal["min", "max"] = "min",
        keep: int = 1,
        seconds: float | None = 600.0,
    ) -> None:
        if mode not in ("min", "max"):
            raise ValueError(f"mode {mode!r}; give min (smallest is best) or max (largest is best)")
        self.folder = Path(folder)
        self.monitor, self.mode, self.keep, self.seconds = monitor, mode, keep, seconds
        self.ranking: list[tuple[float, str]] = []
        self.saved_at: int | None = None
        self.saved_when = 0.0
        self.saving_trial = False

    @property
    def last_path(self) -> Path:
        """Path of the checkpoint to resume from."""
        return self.folder / LAST

    @property
    def best_model_path(self) -> str:
        """Path of the best checkpoint; Lightning reads it for `ckpt_path="best"`."""
        return str(self.folder / BEST) if self.ranking else ""

    def state_dict(self) -> dict[str, Any]:
        return {"ranking": self.ranking}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.ranking = [(float(score), str(name)) for score, name in state_dict["ranking"]]

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        if self.saving_trial:
            checkpoint["optimizer_states"] = [
                state_after_a_step(optimizer) for optimizer in trainer.optimizers
            ]

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage != "fit":
            return
        if not isinstance(trainer.strategy.checkpoint_io, AtomicCheckpointIO):
            raise ValueError(
                "AtomicCheckpoint writes through AtomicCheckpointIO; "
                "give Trainer(plugins=[AtomicCheckpointIO()])"
            )
        known = self.monitor is None or self.monitor in validation_metrics(pl_module)
        if not known and not _is_trial(trainer):
            # validate a batch first, to see whether the task logs the metric
            trainer.num_sanity_val_steps = max(trainer.num_sanity_val_steps, 1)

    def on_sanity_check_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        logged = validation_metrics(pl_module) | set(trainer.callback_metrics)
        if self.monitor is not None and self.monitor not in logged:
            raise unknown_monitor(self.monitor, logged)
        refuse_misspelt_monitors(trainer, logged)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        refuse_misspelt_monitors(trainer, validation_metrics(pl_module))
        if not _is_trial(trainer):
            on_rank_zero(trainer, lambda: self._prepare(trainer.ckpt_path))
            self._test_saving(trainer)
            self.saved_at = None
            self.save_last(trainer)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if what_follows(trainer) == "end of epoch":
            return  # Lightning cannot resume from here; on_train_epoch_end comes next and saves
        if self._due(trainer) or last_chance(trainer):
            self.save_last(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.save_last(trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        fitting = trainer.state.fn == "fit" and not trainer.sanity_checking
        if not fitting or _is_trial(trainer) or self.monitor is None:
            return
        if self.monitor not in trainer.callback_metrics:
            raise unknown_monitor(self.monitor, trainer.callback_metrics)
        self.save_last(trainer)  # already saved, unless `val_check_interval` is a time
        # broadcast, as the metric may have been logged without synchronisation
        score = trainer.strategy.broadcast(float(trainer.callback_metrics[self.monitor]))
        if math.isfinite(score):
            self._rank(trainer, score)

    def save_last(self, trainer: Trainer) -> None:
        """Write `last.ckpt`, unless it was written after this batch."""
        if not _is_trial(trainer) and self.saved_at != trainer.fit_loop.total_batch_idx:
            self._save(trainer, self.last_path)
            self.saved_at, self.saved_when = trainer.fit_loop.total_batch_idx, time.monotonic()

    def _due(self, trainer: Trainer) -> bool:
        """Return True after `seconds` on rank 0."""
        if self.seconds is None:
            return False
        elapsed = trainer.is_global_zero and time.monotonic() - self.saved_when > self.seconds
        return bool(all_reduce_max(int(elapsed)))

    def _save(self, trainer: Trainer, path: Path) -> None:
        """Write a checkpoint, or raise in all processes."""
        problem = None
        try:
            trainer.save_checkpoint(path)
        except Exception as error:  # only rank 0 writes; the others wait at Lightning's barrier
            problem = error
            trainer.strategy.barrier()
        fail_together(trainer, problem)

    def _prepare(self, start: str | os.PathLike[str] | None) -> None:
        """Create the folder; refuse one with other checkpoints."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            remove_stale(self.folder)
        except OSError as problem:
            raise OSError(
                f"{self.folder}: cannot hold checkpoints ({problem.strerror})"
            ) from problem
        lost = None if self.saved_at is not None else self._would_be_lost(start)
        if lost is not None:
            raise ValueError(
                f"{lost} would be overwritten; resume from it (ckpt_path), move it away, "
                "or give another folder"
            )

    def _would_be_lost(self, start: str | os.PathLike[str] | None) -> Path | None:
        """Return a checkpoint that a training from `start` would overwrite."""
        saved = sorted(self.folder.glob("*.ckpt"), key=lambda path: path.name != LAST)
        if start is None or Path(start).resolve().parent != self.folder.resolve():
            return saved[0] if saved else None
        if self.last_path.exists() and not self.last_path.samefile(start):
            try:
                load_checkpoint(self.last_path)
            except (BadCheckpointError, OSError):
                return None  # damaged, which is why the training starts from another one
            return self.last_path
        return None

    def _test_saving(self, trainer: Trainer) -> None:
        """Write and read back a trial checkpoint of full size."""
        trial = temporary_path(self.last_path)
        files = 1 if self.monitor is None else 2 if self.keep == 1 else 2 + self.keep

        def check() -> None:
            require_free_space(self.folder, trial, files)
            try:
                load_checkpoint(trial)
            except BadCheckpointError as problem:
                raise TypeError(
                    "the run could not be resumed, as its checkpoints cannot be read back: "
                    f"{problem}; save only tensors and plain values"
                ) from problem

        self.saving_trial = True
        try:
            self._save(trainer, trial)
            on_rank_zero(trainer, check)
        finally:
            self.saving_trial = False
            if trainer.is_global_zero:
                trial.unlink(missing_ok=True)

    def _rank(self, trainer: Trainer, score: float) -> None:
        """Copy `last.ckpt` if it is one of the best.

        Of equal scores the newest counts as the best.
        """
        name = f"step={trainer.global_step:08d}.ckpt"
        others = [entry for entry in self.ranking if entry[1] != name]
        ranking = sorted(
            [(score, name), *others],
            key=lambda entry: entry[0] if self.mode == "min" else -entry[0],
        )
        self.ranking, dropped = ranking[: self.keep], ranking[self.keep :]

        def keep_files() -> None:
            if self.keep > 1 and (score, name) in self.ranking:
                _copy(self.last_path, self.folder / name)
            if self.ranking[0] == (score, name):
                _copy(self.last_path, self.folder / BEST)
            for _, gone in dropped:
                (self.folder / gone).unlink(missing_ok=True)

        on_rank_zero(trainer, keep_files)


def _is_trial(trainer: Trainer) -> bool:
    """Return True for a `fast_dev_run`, which writes no files."""
    return bool(trainer.fast_dev_run)  # type: ignore[attr-defined]  # Lightning sets it without declaring it


def last_chance(trainer: Trainer) -> bool:
    """Return True before a validation or the training's end."""
    stopping = trainer.should_stop and may_stop_early(trainer)
    return trainer.global_step == trainer.max_steps or stopping or validation_follows(trainer)


def _copy(file: Path, name: Path) -> None:
    """Copy a checkpoint atomically."""
    with atomic_write(name) as copy, file.open("rb") as original:
        shutil.copyfileobj(original, copy, 1 << 20)

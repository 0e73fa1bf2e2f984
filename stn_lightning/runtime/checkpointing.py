"""The schedule of checkpoints, and the choice of the best.

Lightning's `ModelCheckpoint` does not serve here. It takes three of them to keep the best under one
name, the last of every epoch and the last by time; two with one metric are refused for having one
key; `last.ckpt` is left out of epochs that did not improve the metric; an absolute path in its
state makes a moved folder forget the best; and what it saves after a validation or at an epoch's
end resumes without early stopping's metric or the step of a `ReduceLROnPlateau`. Here `last.ckpt`
is written BEFORE each validation, so that a training that stops in it repeats it whole, and the
best is a copy of that file: one bad sector does not take both.
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
from stn_lightning.runtime.distributed import all_reduce_max, fail_together, on_rank_zero
from stn_lightning.runtime.exact_resume import what_follows
from stn_lightning.runtime.lightning_internals import may_stop_early, validation_follows
from stn_lightning.runtime.monitors import (
    refuse_misspelt_monitors,
    unknown_monitor,
    validation_metrics,
)
from stn_lightning.runtime.rehearsal import require_room, state_after_a_step

BEST = "best.ckpt"


class AtomicCheckpoint(Checkpoint):
    """Keep `last.ckpt` and `best.ckpt`.

    `last.ckpt` is written before the first step, before each validation, at the end of each epoch
    and every `seconds`. Before the first step a rehearsal of the size that checkpoints will have,
    the optimiser's moments included, is written and read back: a folder that cannot be written, a
    disk that is or will be full, or a value that cannot be read again stops the run before it has
    cost anything.

    Args:
        folder: folder for the checkpoints of this run only.
        monitor: the metric, logged in validation, by which checkpoints are ranked; without one
            there is no best.
        mode: the best is the smallest ("min") or the largest ("max").
        keep: number of best checkpoints; beyond the first they are named by their step.
        seconds: between two writings of `last.ckpt`, by the clock of rank 0; None for no clock.

    Raises:
        ValueError: if `folder` holds checkpoints that this training would overwrite and does not
            resume from.
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
            raise ValueError(f"mode {mode!r}; the best is the smallest (min) or the largest (max)")
        self.folder = Path(folder)
        self.monitor, self.mode, self.keep, self.seconds = monitor, mode, keep, seconds
        self.ranking: list[tuple[float, str]] = []
        self.saved_at: int | None = None
        self.saved_when = 0.0
        self.rehearsing = False

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
        if self.rehearsing:
            checkpoint["optimizer_states"] = [
                state_after_a_step(optimizer) for optimizer in trainer.optimizers
            ]

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage != "fit":
            return
        if not isinstance(trainer.strategy.checkpoint_io, AtomicCheckpointIO):
            raise ValueError(
                "give Trainer(plugins=[AtomicCheckpointIO()]): "
                "a checkpoint that is written in place is lost with its process"
            )
        known = self.monitor is None or self.monitor in validation_metrics(pl_module)
        if not known and not _is_trial(trainer):
            # a batch shows whether the task logs it after all
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
            self._rehearse(trainer)
            self.saved_at = None
            self.save_last(trainer)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if what_follows(trainer) == "end of epoch":
            return  # on_train_epoch_end is about to be called, and Lightning cannot go on from here
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
        self.save_last(trainer)  # a validation by the clock comes without warning
        # a user may log it without synchronising
        score = trainer.strategy.broadcast(float(trainer.callback_metrics[self.monitor]))
        if math.isfinite(score):
            self._rank(trainer, score)

    def save_last(self, trainer: Trainer) -> None:
        """Write `last.ckpt`, unless it holds this batch already."""
        if not _is_trial(trainer) and self.saved_at != trainer.fit_loop.total_batch_idx:
            self._save(trainer, self.last_path)
            self.saved_at, self.saved_when = trainer.fit_loop.total_batch_idx, time.monotonic()

    def _due(self, trainer: Trainer) -> bool:
        """Return True where `seconds` have gone by on rank 0."""
        if self.seconds is None:
            return False
        passed = trainer.is_global_zero and time.monotonic() - self.saved_when > self.seconds
        return bool(all_reduce_max(int(passed)))

    def _save(self, trainer: Trainer, path: Path) -> None:
        """Write a checkpoint, or raise in all processes."""
        problem = None
        try:
            trainer.save_checkpoint(path)
        except (
            Exception
        ) as error:  # on rank 0, which writes; the others wait at Lightning's barrier
            problem = error
            trainer.strategy.barrier()
        fail_together(trainer, problem)

    def _prepare(self, start: str | os.PathLike[str] | None) -> None:
        """Make the folder, and refuse to overwrite another training's."""
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
                f"{lost} would be lost; go on from it (ckpt_path), or move it away, "
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
                return None  # which is why it starts from another one
            return self.last_path
        return None

    def _rehearse(self, trainer: Trainer) -> None:
        """Write and read back a checkpoint of full size."""
        rehearsal = temporary_path(self.last_path)
        files = 1 if self.monitor is None else 2 if self.keep == 1 else 2 + self.keep

        def check() -> None:
            require_room(self.folder, rehearsal, files)
            try:
                load_checkpoint(rehearsal)
            except BadCheckpointError as problem:
                raise TypeError(
                    "what was saved cannot be read again, so resuming would fail: "
                    f"{problem}; save plain values"
                ) from problem

        self.rehearsing = True
        try:
            self._save(trainer, rehearsal)
            on_rank_zero(trainer, check)
        finally:
            self.rehearsing = False
            if trainer.is_global_zero:
                rehearsal.unlink(missing_ok=True)

    def _rank(self, trainer: Trainer, score: float) -> None:
        """Copy `last.ckpt` if it is one of the best.

        Among equal scores the newest counts as the best, as it was trained longer.
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
    """Return True for a `fast_dev_run`, which leaves nothing behind."""
    return bool(trainer.fast_dev_run)  # type: ignore[attr-defined]  # Lightning sets it without declaring it


def last_chance(trainer: Trainer) -> bool:
    """Return True before a validation or the training's end."""
    stopping = trainer.should_stop and may_stop_early(trainer)
    return trainer.global_step == trainer.max_steps or stopping or validation_follows(trainer)


def _copy(file: Path, name: Path) -> None:
    """Copy a checkpoint; the copy is complete or not there."""
    with atomic_write(name) as copy, file.open("rb") as original:
        shutil.copyfileobj(original, copy, 1 << 20)

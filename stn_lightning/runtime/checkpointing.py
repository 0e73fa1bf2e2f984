"""When checkpoints are written, and which are kept.

Lightning's `ModelCheckpoint` does not serve here. It takes three of them to keep the best under one
name, the last of every epoch and the last by time; two with one metric are refused for having one
key; `last.ckpt` is left out of epochs that did not improve the metric; an absolute path in its
state makes a moved folder forget the best; and what it saves after a validation or at an epoch's
end resumes without early stopping's metric or the step of a `ReduceLROnPlateau`. Here `last.ckpt`
is written BEFORE each validation, so that a training that stops in it repeats it whole, and the
best is a second name of that same file.
"""

import contextlib
import difflib
import os
import shutil
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint

from stn_lightning.runtime.atomic_files import (
    atomic_write,
    remove_stale,
    sync_folder,
    temporary_path,
)
from stn_lightning.runtime.checkpoint_io import (
    LAST,
    AtomicCheckpointIO,
    BadCheckpointError,
    load_checkpoint,
)
from stn_lightning.runtime.distributed import all_reduce_max, fail_together, on_rank_zero
from stn_lightning.runtime.exact_resume import what_follows
from stn_lightning.runtime.lightning_internals import may_stop_early, validation_follows

BEST = "best.ckpt"


class AtomicCheckpoint(Checkpoint):
    """Keeps `last.ckpt` and `best.ckpt`.

    `last.ckpt` is written before the first step, before each validation, at the end of each epoch
    and every `seconds`, and read back the first time: a folder that cannot be written, a full disk
    or a value that cannot be read again stops the run before it has cost anything.

    Args:
        folder: of this run alone.
        monitor: the name of the metric, logged in validation, by which checkpoints are judged;
            without one there is no best.
        mode: whether the best is the smallest or the largest.
        keep: how many of the best, the others under the number of their step.
        seconds: between two writings of `last.ckpt`, by the clock of the first process; None for
            none.
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

    @property
    def last_path(self) -> Path:
        """Of the checkpoint to go on from."""
        return self.folder / LAST

    @property
    def best_model_path(self) -> str:
        """Of the best checkpoint, under the name by which Lightning asks for `ckpt_path="best"`."""
        return str(self.folder / BEST) if self.ranking else ""

    def state_dict(self) -> dict[str, Any]:
        return {"ranking": self.ranking}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.ranking = [(float(score), str(name)) for score, name in state_dict["ranking"]]

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage == "fit" and not isinstance(trainer.strategy.checkpoint_io, AtomicCheckpointIO):
            raise ValueError(
                "give Trainer(plugins=[AtomicCheckpointIO()]): a checkpoint written in place would change the best with the last"
            )
        if (
            stage == "fit"
            and self.monitor is not None
            and self.monitor not in _validated(pl_module)
            and not _trial(trainer)
        ):
            trainer.num_sanity_val_steps = max(
                trainer.num_sanity_val_steps, 1
            )  # a batch tells whether the task logs it after all

    def on_sanity_check_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        logged = _validated(pl_module) | set(trainer.callback_metrics)
        if self.monitor is not None and self.monitor not in logged:
            raise _unknown(self.monitor, logged)
        _refuse_misspelt_monitors(trainer, logged)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        _refuse_misspelt_monitors(trainer, _validated(pl_module))
        if not _trial(trainer):
            on_rank_zero(trainer, lambda: self._prepare(trainer.ckpt_path))
            rehearsal = temporary_path(self.last_path)
            self._save(trainer, rehearsal)
            on_rank_zero(trainer, lambda: self._read_back(rehearsal))

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
        if (
            trainer.sanity_checking
            or _trial(trainer)
            or trainer.state.fn != "fit"
            or self.monitor is None
        ):
            return
        if self.monitor not in trainer.callback_metrics:
            raise _unknown(self.monitor, trainer.callback_metrics)
        self.save_last(trainer)  # a validation by the clock comes without warning
        score = trainer.strategy.broadcast(
            float(trainer.callback_metrics[self.monitor])
        )  # which a user may log unsynchronised
        if score == score:  # a NaN is no best
            self._rank(trainer, score)

    def save_last(self, trainer: Trainer) -> None:
        """Write `last.ckpt`, unless it is of this batch already."""
        if not _trial(trainer) and self.saved_at != trainer.fit_loop.total_batch_idx:
            self._save(trainer, self.last_path)

    def _due(self, trainer: Trainer) -> bool:
        """By the clock of the first process."""
        if self.seconds is None:
            return False
        return bool(
            all_reduce_max(
                int(trainer.is_global_zero and time.monotonic() - self.saved_when > self.seconds)
            )
        )

    def _save(self, trainer: Trainer, path: Path) -> None:
        """Write a checkpoint, or raise the same error in all processes."""
        problem = None
        try:
            trainer.save_checkpoint(path)
        except (
            Exception
        ) as error:  # in the process that writes; the others wait in Lightning's barrier
            problem = error
            trainer.strategy.barrier()
        fail_together(trainer, problem)
        self.saved_at, self.saved_when = trainer.fit_loop.total_batch_idx, time.monotonic()

    def _prepare(self, goes_on_from: str | os.PathLike[str] | None) -> None:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            remove_stale(self.folder)
        except OSError as problem:
            raise OSError(
                f"{self.folder}: cannot hold checkpoints ({problem.strerror})"
            ) from problem
        with contextlib.suppress(BadCheckpointError, FileNotFoundError):
            if self.saved_at is None and (
                goes_on_from is None or not self.last_path.samefile(goes_on_from)
            ):
                load_checkpoint(self.last_path)
                raise ValueError(
                    f"{self.last_path} would be lost; go on from it (ckpt_path), or move it away, or give another folder"
                )

    def _read_back(self, rehearsal: Path) -> None:
        try:
            load_checkpoint(rehearsal)
        except BadCheckpointError as problem:
            raise TypeError(
                f"what was saved cannot be read again, so resuming would fail: {problem}; save plain values"
            ) from problem
        rehearsal.replace(self.last_path)
        sync_folder(self.folder)

    def _rank(self, trainer: Trainer, score: float) -> None:
        """Take the checkpoint of this score, which is `last.ckpt`, among the best if it is one of
        them.
        """
        name = f"step={trainer.global_step:08d}.ckpt"
        others = [entry for entry in self.ranking if entry[1] != name]
        ranking = sorted(
            [*others, (score, name)],
            key=lambda entry: entry[0] if self.mode == "min" else -entry[0],
        )
        self.ranking, dropped = ranking[: self.keep], ranking[self.keep :]

        def rename() -> None:
            if self.keep > 1 and (score, name) in self.ranking:
                _second_name(self.last_path, self.folder / name)
            if self.ranking[0] == (score, name):
                _second_name(self.last_path, self.folder / BEST)
            for _, gone in dropped:
                (self.folder / gone).unlink(missing_ok=True)

        on_rank_zero(trainer, rename)


def _trial(trainer: Trainer) -> bool:
    """Whether this is a few batches that leave nothing behind."""
    return bool(trainer.fast_dev_run)  # type: ignore[attr-defined]  # Lightning sets it without declaring it


def last_chance(trainer: Trainer) -> bool:
    """Whether a validation or the end of the training comes before the next batch."""
    stopping = trainer.should_stop and may_stop_early(trainer)
    return trainer.global_step == trainer.max_steps or stopping or validation_follows(trainer)


def _second_name(file: Path, name: Path) -> None:
    """The same file under another name; a copy where the file system has no hard links."""
    partial = temporary_path(name)
    try:
        os.link(file, partial)
        partial.replace(name)
        sync_folder(name.parent)
    except OSError:
        with atomic_write(name) as copy, file.open("rb") as original:
            shutil.copyfileobj(original, copy)
    finally:
        partial.unlink(missing_ok=True)  # still there where both were one file already


def _validated(pl_module: LightningModule) -> set[str]:
    """Return the names that the module says its validation logs, if it says so."""
    return getattr(pl_module, "validation_metrics", set())


def _refuse_misspelt_monitors(trainer: Trainer, logged: Iterable[str]) -> None:
    """Look at all callbacks and schedules that monitor something, before the first step instead of
    after an epoch.
    """
    names = list(logged)
    schedules = [
        config.monitor for config in trainer.lr_scheduler_configs if config.reduce_on_plateau
    ]
    for monitor in [
        *(getattr(callback, "monitor", None) for callback in trainer.callbacks),  # type: ignore[attr-defined]
        *schedules,
    ]:
        # of training's metrics nothing is known yet, and train_loss resembles val_loss by 0.67
        if (
            monitor is not None
            and monitor not in names
            and difflib.get_close_matches(monitor, names, 1, cutoff=0.8)
        ):
            raise _unknown(monitor, names)


def _unknown(monitor: str, logged: Iterable[str]) -> ValueError:
    names = sorted(logged)
    close = difflib.get_close_matches(monitor, names, 1)
    hint = f"did you mean {close[0]}? " if close else ""
    return ValueError(
        f"monitor {monitor!r} is not logged in validation; {hint}logged are {', '.join(names) or 'no metrics at all'}"
    )

"""Save and stop a training at a signal.

Schedulers, time limits and Ctrl-C stop a training by a signal. Lightning saves within the signal
handler. There a process may be in a collective operation that another process never joins, so that
Lightning hangs, or it saves in the middle of an optimiser's step (PyTorch Lightning's issue 20806),
and it ends with exit code 0. Here the handler only stores the signal, and all processes stop
together at the end of a batch.
"""

import signal
from pathlib import Path
from typing import Any, NoReturn

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint

from stn_lightning.runtime import signals
from stn_lightning.runtime.checkpointing import AtomicCheckpoint
from stn_lightning.runtime.distributed import all_reduce_max, leave_together
from stn_lightning.runtime.exact_resume import what_follows
from stn_lightning.runtime.exit_codes import PREEMPTED
from stn_lightning.runtime.lightning_internals import disable_signal_handlers


class Preempted(SystemExit):
    """The program was stopped by a signal and has saved.

    If it is not caught, the process ends with exit code 75.
    """

    def __init__(self, message: str) -> None:
        super().__init__(PREEMPTED)
        self.message = message

    def __str__(self) -> str:
        return self.message


class Preemption(Checkpoint):
    """Save and stop after a signal to any process.

    The signals are those of `signals.SIGNALS`. A training writes `last.ckpt` first. A validation
    stops between two batches, and begins again when the training is resumed. A second signal at
    least a second later ends the process at once. Lightning's signal handlers, including requeueing
    on SLURM, are disabled. All processes must have the same number of batches.

    It needs an `AtomicCheckpoint`, which saves. It is a subclass of `Checkpoint` so that Lightning
    calls it after other callbacks.
    """

    def __init__(self) -> None:
        self.listening = False

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        disable_signal_handlers(trainer)
        self.listening = signals.start_listening() or self.listening
        if stage == "fit":
            _checkpoints(trainer)
        if all_reduce_max(_asked()):
            self._leave(trainer, None)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if self.listening:
            signals.release()
            self.listening = False

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Restore the signal handlers after an error.

        Lightning does not call `teardown` then. After `Preempted` the process ends anyway.
        """
        if not isinstance(exception, Preempted):
            self.teardown(trainer, pl_module, "")

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if all_reduce_max(_asked()) and what_follows(trainer) != "end of epoch":
            self._save_and_leave(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop at the end of an epoch without validation.

        After a validation the training stops at the next batch instead, so that the validation need
        not be repeated.
        """
        if all_reduce_max(_asked()) and what_follows(trainer) == "end of epoch":
            self._save_and_leave(trainer)

    def on_validation_batch_end(self, trainer: Trainer, *_: Any) -> None:
        if not all_reduce_max(_asked()):
            return
        if trainer.state.fn != "fit" or trainer.sanity_checking:
            self._leave(trainer, None)
        checkpoints = _checkpoints(trainer)
        if checkpoints.saved_at == trainer.fit_loop.total_batch_idx:
            self._leave(trainer, checkpoints.last_path)

    def on_test_batch_end(self, trainer: Trainer, *_: Any) -> None:
        if all_reduce_max(_asked()):
            self._leave(trainer, None)

    on_predict_batch_end = on_test_batch_end  # type: ignore[assignment]

    def _save_and_leave(self, trainer: Trainer) -> None:
        checkpoints = _checkpoints(trainer)
        checkpoints.save_last(trainer)
        self._leave(trainer, checkpoints.last_path)

    def _leave(self, trainer: Trainer, saved: Path | None) -> NoReturn:
        signals.set_exit_code(PREEMPTED)
        leave_together(trainer)
        number = all_reduce_max(_asked())
        where = f"; {saved} has everything up to step {trainer.global_step}" if saved else ""
        raise Preempted(f"stopped by {signal.Signals(number).name}{where}")


def _asked() -> int:
    """Return this process's signal, or 0."""
    return signals.caught_signal() or 0


def _checkpoints(trainer: Trainer) -> AtomicCheckpoint:
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, AtomicCheckpoint):
            return callback
    raise ValueError("Preemption saves by AtomicCheckpoint; give the Trainer both callbacks")

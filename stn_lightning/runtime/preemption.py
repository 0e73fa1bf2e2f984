"""Stop a training when asked to, and lose nothing.

Schedulers preempt, time limits end, people press Ctrl-C. Lightning saves inside the signal's
handler, where one process may be in a collective that another never joins; it hangs, or saves half
a step of the optimiser (PyTorch Lightning's issue 20806), and ends with exit code 0. Here the
handler only notes the signal, and the processes agree at the end of a batch.
"""

import signal
from pathlib import Path
from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint

from stn_lightning.runtime import signals
from stn_lightning.runtime.checkpointing import AtomicCheckpoint
from stn_lightning.runtime.distributed import all_reduce_max, leave_together
from stn_lightning.runtime.exact_resume import what_follows
from stn_lightning.runtime.exit_codes import PREEMPTED
from stn_lightning.runtime.lightning_internals import disable_signal_handlers


class Preempted(SystemExit):
    """The program was asked to stop, and has saved everything.

    Uncaught, it ends the process with exit code 75.
    """

    def __init__(self, message: str) -> None:
        super().__init__(PREEMPTED)
        self.message = message

    def __str__(self) -> str:
        return self.message


class Preemption(Checkpoint):
    """Stop after a batch where any process was signalled.

    The signals are those of `signals.SIGNALS`. In training `last.ckpt` is written first; a
    validation is left between two of its batches and begun anew when the training goes on. A second
    signal, a second later or more, ends the process at once. Lightning's own handlers are left out,
    its requeueing on SLURM with them. Every process needs the same number of batches.

    It goes with an `AtomicCheckpoint`, which says where to save. It is a `Checkpoint` itself only
    so that Lightning calls it after other callbacks.
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
        """Give the signals back after an error.

        Lightning calls no `teardown` then, and the program may go on; one that was stopped leaves.
        """
        if not isinstance(exception, Preempted):
            self.teardown(trainer, pl_module, "")

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if all_reduce_max(_asked()) and what_follows(trainer) != "end of epoch":
            self._save_and_leave(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop, but not after a validation.

        It would have to be repeated, and the next batch is near.
        """
        if all_reduce_max(_asked()) and what_follows(trainer) == "end of epoch":
            self._save_and_leave(trainer)

    def on_validation_batch_end(self, trainer: Trainer, *_: Any) -> None:
        in_training = trainer.state.fn == "fit" and not trainer.sanity_checking
        saved = (
            _checkpoints(trainer).saved_at == trainer.fit_loop.total_batch_idx
            if in_training
            else True
        )
        if all_reduce_max(_asked()) and saved:
            self._leave(trainer, _checkpoints(trainer).last_path if in_training else None)

    def on_test_batch_end(self, trainer: Trainer, *_: Any) -> None:
        if all_reduce_max(_asked()):
            self._leave(trainer, None)

    def on_predict_batch_end(self, trainer: Trainer, *_: Any) -> None:
        if all_reduce_max(_asked()):
            self._leave(trainer, None)

    def _save_and_leave(self, trainer: Trainer) -> None:
        checkpoints = _checkpoints(trainer)
        checkpoints.save_last(trainer)
        self._leave(trainer, checkpoints.last_path)

    def _leave(self, trainer: Trainer, saved: Path | None) -> None:
        signals.set_exit_code(PREEMPTED)
        leave_together(trainer)
        number = all_reduce_max(_asked())
        where = f"; {saved} holds all up to step {trainer.global_step}" if saved else ""
        raise Preempted(f"stopped by {signal.Signals(number).name}{where}")


def _asked() -> int:
    """Return the signal of this process, else 0."""
    return signals.caught_signal() or 0


def _checkpoints(trainer: Trainer) -> AtomicCheckpoint:
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, AtomicCheckpoint):
            return callback
    raise ValueError("Preemption needs AtomicCheckpoint to save; give the Trainer both callbacks")

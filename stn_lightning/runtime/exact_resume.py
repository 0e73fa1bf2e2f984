"""State that Lightning leaves out of a checkpoint.

With it a resumed training is the same, bit for bit on a CPU, as one that never stopped. Random
number generators and half-accumulated gradients of every process are added to the checkpoint, and
Lightning's account of how far it has come is mended where resuming from it would skip a validation,
count an epoch twice or train on the wrong batch. The data loader keeps its own position
(`ResumableLoader`), and weight averaging its weights (Lightning's `EMAWeightAveraging`).
"""

import copy
import random
from typing import Any, Literal

import numpy as np
import torch
from lightning import Callback, LightningModule, Trainer
from torch import Tensor

from stn_lightning.runtime.distributed import gather_to_rank_zero
from stn_lightning.runtime.lightning_internals import (
    end_restart,
    epoch_is_complete,
    is_accumulating,
    restore_metrics,
    validates_by_clock,
    validation_follows,
)

KEY = "exact_state"
NOTHING = {"ready": 0, "started": 0, "processed": 0, "completed": 0}
VALIDATION_HAS_BEGUN = {
    "total": {**NOTHING, "ready": 1, "started": 1},
    "current": NOTHING,
    "is_last_batch": False,
}
"""To Lightning: go back into validation, of which no batch is done."""


class ExactResume(Callback):
    """Save and restore random numbers, partial gradients and progress.

    A training that goes on with another number of processes has each process's share of partial
    gradients averaged; a process that was not there before keeps the random numbers it was seeded
    with.
    """

    def __init__(self) -> None:
        self.saved: dict[str, Any] | None = None
        self.extra_steps = 0

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        epoch_ended = mend_progress(trainer, checkpoint["loops"]["fit_loop"])
        accumulating = is_accumulating(trainer)
        gradients = {
            name: p.grad.cpu()
            for name, p in pl_module.named_parameters()
            if accumulating and p.grad is not None
        }
        checkpoint[KEY] = {
            "random": gather_to_rank_zero(random_state()),
            "gradients": gather_to_rank_zero(gradients),
            "epoch_ended": epoch_ended,
            "metrics": {name: value.cpu() for name, value in trainer.callback_metrics.items()},
        }

    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        self.saved = checkpoint.get(KEY)
        steps_done = checkpoint["global_step"] >= trainer.max_steps >= 0
        self.extra_steps = int(
            steps_done and _validation_has_begun(checkpoint["loops"]["fit_loop"])
        )

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Let Lightning start for the last validation alone.

        It would leave at once when all steps are done.
        """
        trainer.fit_loop.epoch_loop.max_steps += self.extra_steps

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        trainer.fit_loop.epoch_loop.max_steps -= self.extra_steps
        self.extra_steps = 0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Restore the state, after all that draws in setting up."""
        loop = trainer.fit_loop
        end_restart(trainer)  # else Lightning ends this epoch without telling a ReduceLROnPlateau
        if loop.epoch_progress.current.ready == loop.epoch_progress.current.completed:
            # with max_steps it takes the end of an epoch for the middle, and counts one without
            # batches
            loop.epoch_loop.restarting = False
        if self.saved is None:
            return
        restore_metrics(trainer, self.saved["metrics"])
        if self.saved[
            "epoch_ended"
        ]:  # but for the step of a ReduceLROnPlateau, which comes after the hooks
            loop.epoch_progress.current.completed -= 1
            loop.epoch_loop.update_lr_schedulers("epoch", update_plateau_schedulers=True)
            loop.epoch_progress.current.completed += 1
        rank, gradients, generators = (
            trainer.global_rank,
            self.saved["gradients"],
            self.saved["random"],
        )
        own = gradients[rank] if len(gradients) == trainer.world_size else _mean(gradients)
        for name, parameter in pl_module.named_parameters():
            if name in own:
                parameter.grad = own[name].to(parameter.device)
        if rank < len(generators):
            set_random_state(generators[rank])
        self.saved = None


def what_follows(trainer: Trainer) -> Literal["batch", "validation", "end of epoch"]:
    """Return what a training resumed from now does first."""
    if _validation_is_scheduled(trainer):
        return "validation"
    return "end of epoch" if epoch_is_complete(trainer) else "batch"


def mend_progress(trainer: Trainer, progress: dict[str, Any]) -> bool:
    """Mend the saved state of Lightning's fit loop.

    Lightning saves in the middle of its hooks and guesses at resuming which one it was. Of what was
    saved at the end of a training batch, it skips the validation that follows, and at the end of an
    epoch it loses count. After this a resumed training does what the interrupted one would have
    done.

    Returns:
        whether the epoch has ended.
    """
    batches, epochs = progress["epoch_loop.batch_progress"], progress["epoch_progress"]
    if _last_step_open(batches):  # saved in on_train_batch_end
        follows = what_follows(trainer)
        if follows != "batch":
            _close_last_step(batches)
        if follows == "validation":
            progress["epoch_loop.val_loop.batch_progress"] = copy.deepcopy(VALIDATION_HAS_BEGUN)
        elif follows == "end of epoch":
            for count in (epochs["total"], epochs["current"]):
                count["processed"] += 1
    if not _last_step_open(epochs):
        return False
    _close_last_step(epochs)  # saved in on_train_epoch_end
    return True


def _validation_has_begun(progress: dict[str, Any]) -> bool:
    return bool(progress["epoch_loop.val_loop.batch_progress"] == VALIDATION_HAS_BEGUN)


def random_state() -> dict[str, Any]:
    """Return the state of this process's random generators."""
    version, words, gauss = random.getstate()
    name, keys, position, has_gauss, cached = np.random.get_state()  # noqa: NPY002  # the global one is what there is to save
    return {
        "python": (version, words, gauss),
        "numpy": (
            str(name),
            torch.from_numpy(np.asarray(keys, np.int64)),
            int(position),
            int(has_gauss),
            float(cached),
        ),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def set_random_state(state: dict[str, Any]) -> None:
    """Put this process's generators where `random_state` found them."""
    random.setstate(state["python"])
    name, keys, *rest = state["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), *rest))  # noqa: NPY002
    torch.set_rng_state(state["torch"])
    for device, cuda in enumerate(state["cuda"][: torch.cuda.device_count()]):
        torch.cuda.set_rng_state(cuda, device)


def _validation_is_scheduled(trainer: Trainer) -> bool:
    """Return True where the count of batches asks for validation.

    The count is the same after resuming; the clock, or a training about to stop, is not.
    """
    if validates_by_clock(trainer):
        return False
    stopping, trainer.should_stop = trainer.should_stop, False
    try:
        return validation_follows(trainer)
    finally:
        trainer.should_stop = stopping


def _last_step_open(progress: dict[str, Any]) -> bool:
    now = progress["current"]
    return bool(now["ready"] == now["started"] == now["processed"] == now["completed"] + 1)


def _close_last_step(progress: dict[str, Any]) -> None:
    for count in (progress["total"], progress["current"]):
        count["completed"] = count["processed"]


def _mean(gradients: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    return {name: torch.stack([each[name] for each in gradients]).mean(0) for name in gradients[0]}

"""State that Lightning leaves out of a checkpoint.

With it a resumed training gives the same result as one that never stopped, on a CPU bit for bit.
Random number generators and accumulated gradients of all processes are added to the checkpoint.
Lightning's progress is corrected in the cases in which resuming would skip a validation, count an
epoch twice or train on a wrong batch. The position in the data is saved by `ResumableLoader`, the
averaged weights by Lightning's `EMAWeightAveraging`.
"""

import copy
import random
from typing import Any, Literal

import numpy as np
import torch
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.plugins.precision import DoublePrecision
from torch import Tensor

from stn_lightning.runtime.distributed import all_reduce_max, gather_to_rank_zero
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
"""Progress with which Lightning begins with a validation when it resumes."""


class ExactResume(Callback):
    """Save and restore random numbers, accumulated gradients and progress.

    Each process has random numbers of its own. If the number of processes has changed, accumulated
    gradients are averaged over the old processes, and further processes begin with new numbers.
    """

    def __init__(self) -> None:
        self.saved: dict[str, Any] | None = None
        self.extra_steps = 0

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Convert the module, if it trains in float64.

        Lightning does so after it has restored the weights, which would round them to float32.
        """
        if isinstance(trainer.precision_plugin, DoublePrecision):
            pl_module.double()

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
            "random": gather_to_rank_zero(random_state(pl_module.device)),
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
        """Let Lightning validate after all steps are done.

        Without a further step it would not start at all.
        """
        trainer.fit_loop.epoch_loop.max_steps += self.extra_steps

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        trainer.fit_loop.epoch_loop.max_steps -= self.extra_steps
        self.extra_steps = 0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Restore the state, after everything that draws random numbers."""
        loop = trainer.fit_loop
        end_restart(trainer)  # otherwise this epoch ends without a step of a ReduceLROnPlateau
        if loop.epoch_progress.current.ready == loop.epoch_progress.current.completed:
            # with max_steps Lightning would count a further epoch without batches
            loop.epoch_loop.restarting = False
        refuse_different_positions(loop.total_batch_idx)
        if trainer.global_rank:  # dropout is different in each process; the first keeps the seed
            torch.manual_seed(torch.initial_seed() + trainer.global_rank)
        if self.saved is None:
            return
        restore_metrics(trainer, self.saved["metrics"])
        if self.saved["epoch_ended"]:  # the step of a ReduceLROnPlateau comes after the hooks
            loop.epoch_progress.current.completed -= 1
            loop.epoch_loop.update_lr_schedulers("epoch", update_plateau_schedulers=True)
            loop.epoch_progress.current.completed += 1
        rank, gradients = trainer.global_rank, self.saved["gradients"]
        generators = self.saved["random"]
        own = gradients[rank] if len(gradients) == trainer.world_size else _mean(gradients)
        for name, parameter in pl_module.named_parameters():
            if name in own:
                parameter.grad = own[name].to(parameter.device)
        if rank < len(generators):
            set_random_state(generators[rank], pl_module.device)
        self.saved = None


def what_follows(trainer: Trainer) -> Literal["batch", "validation", "end of epoch"]:
    """Return what a training resumed from now does first."""
    if _validation_is_scheduled(trainer):
        return "validation"
    return "end of epoch" if epoch_is_complete(trainer) else "batch"


def mend_progress(trainer: Trainer, progress: dict[str, Any]) -> bool:
    """Correct the saved state of Lightning's fit loop.

    Lightning saves within a hook and does not know in which one when it resumes. From a checkpoint
    of `on_train_batch_end` it skips the validation that follows, and at the end of an epoch it
    counts wrongly. With the corrected state the training continues as the interrupted one would
    have.

    Returns:
        True if the epoch has ended.
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


def refuse_different_positions(batches: int) -> None:
    """Check that all processes go on at the same batch.

    Each process reads its checkpoint itself, and takes an older one if it cannot read the newest.

    Raises:
        RuntimeError: they do not.
    """
    most, least = all_reduce_max(batches), -all_reduce_max(-batches)
    if most != least:
        raise RuntimeError(
            f"processes would go on after batch {least} and after batch {most}, as not all of them "
            "could read the newest checkpoint; check the file system, and start again"
        )


def random_state(device: torch.device) -> dict[str, Any]:
    """Return the state of this process's random generators.

    Args:
        device: device of the training.
    """
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
        "cuda": torch.cuda.get_rng_state(device) if device.type == "cuda" else None,
    }


def set_random_state(state: dict[str, Any], device: torch.device) -> None:
    """Restore this process's random generators.

    Args:
        state: what `random_state` returned, on this or another device.
        device: device of the training.
    """
    random.setstate(state["python"])
    name, keys, *rest = state["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), *rest))  # noqa: NPY002
    torch.set_rng_state(state["torch"])
    if state["cuda"] is not None and device.type == "cuda":
        torch.cuda.set_rng_state(state["cuda"], device)


def _validation_is_scheduled(trainer: Trainer) -> bool:
    """Return True if validation follows this number of batches.

    Validations by the clock, or because the training is about to stop, do not count: they would
    not follow after resuming.
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

"""What stops a training before its numbers are worthless, or its checkpoint is."""

from collections.abc import Iterable
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from torch import Tensor
from torch.optim import Optimizer

from stn_lightning.runtime.distributed import all_reduce_max, leave_together

NEVER = 2**62
LOSS, GRADIENT, OVERFLOW = range(3)


class NonFiniteError(FloatingPointError):
    """A loss, gradient or parameter is infinite or not a number."""


class NonFiniteGuard(Callback):
    """Stops on a loss or gradient that is infinite or not a number: before the step it would spoil,
    and before anything is saved.

    On a GPU looking means waiting for it, so the finding is kept there and looked at every so many
    steps and before each checkpoint: the weights in memory are spoilt then, those on the disk are
    not. Gradients that overflow in 16-bit precision are no error: the scaler skips the step and
    tries with a smaller scale; only many in a row are one.

    Args:
        every: how many steps of the optimiser between looks on a GPU; on a CPU it is every one.
        overflows: how many steps in a row the gradient scaler may skip. Its scale starts at 65536
            and is halved each time, so after 20 the gradients overflow at a sixteenth of their own
            size.
    """

    def __init__(self, every: int = 50, overflows: int = 20) -> None:
        self.every = every
        self.overflows = overflows
        self.interval = 1
        self.findings: dict[str, Tensor] = {}

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.interval = 1 if pl_module.device.type == "cpu" else self.every
        start = {"first": NEVER, "in_a_row": 0, "finite_step": -1, "finite_loss": torch.nan}
        self.findings = {
            name: torch.tensor(value, device=pl_module.device) for name, value in start.items()
        }

    def on_before_backward(
        self, trainer: Trainer, pl_module: LightningModule, loss: Tensor
    ) -> None:
        self._note(trainer, LOSS, ~loss.detach().isfinite().all())

    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer
    ) -> None:
        parameters = (
            parameter for group in optimizer.param_groups for parameter in group["params"]
        )
        bad = ~_all_finite(parameter.grad for parameter in parameters if parameter.grad is not None)
        if _scaled(trainer):
            self.findings["in_a_row"] = (self.findings["in_a_row"] + 1) * bad
            self._note(trainer, OVERFLOW, self.findings["in_a_row"] >= self.overflows)
        else:
            self._note(trainer, GRADIENT, bad)
        if trainer.global_step % self.interval == 0:
            self._look(trainer)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if isinstance(outputs, dict) and "loss" in outputs:
            loss = (
                outputs["loss"].detach().float() * trainer.accumulate_grad_batches
            )  # which Lightning has divided by it
            finite = loss.isfinite() & (self.findings["first"] == NEVER)
            self.findings["finite_loss"] = torch.where(finite, loss, self.findings["finite_loss"])
            self.findings["finite_step"] = torch.where(
                finite, trainer.global_step - 1, self.findings["finite_step"]
            )

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Look at everything that is saved: a half-accumulated gradient has not been looked at
        before.
        """
        self._look(trainer)
        gradients = (
            []
            if _scaled(trainer)
            else [p.grad for p in pl_module.parameters() if p.grad is not None]
        )
        if all_reduce_max(int(~_all_finite([*pl_module.parameters(), *gradients]))):
            leave_together(trainer)
            raise NonFiniteError(
                f"a parameter or its gradient is not finite after {trainer.global_step} steps; {self._before()}"
            )

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._look(trainer)

    def _note(self, trainer: Trainer, what: int, bad: Tensor) -> None:
        """Keep the first finding, without waiting for the device: which step, which process and
        what, in one number.
        """
        number = (trainer.global_step * trainer.world_size + trainer.global_rank) * 3 + what
        self.findings["first"] = torch.where(
            bad, self.findings["first"].clamp(max=number), self.findings["first"]
        )

    def _look(self, trainer: Trainer) -> None:
        first = -all_reduce_max(-int(self.findings["first"])) if self.findings else NEVER
        if first == NEVER:
            return
        leave_together(trainer)
        place, what = divmod(first, 3)
        step, rank = divmod(place, trainer.world_size)
        found = (
            "the loss is",
            "a gradient is",
            f"gradients of {self.overflows} steps in a row are",
        )[what]
        raise NonFiniteError(
            f"{found} not finite in step {step} (the first is 0) of process {rank}; {self._before()}"
        )

    def _before(self) -> str:
        step, loss = int(self.findings["finite_step"]), float(self.findings["finite_loss"])
        before = (
            f"the last finite loss was {loss:.6g} in step {step}"
            if step >= 0
            else "no loss has been finite"
        )
        return f"{before}; checkpoints are from before. Try a smaller learning rate, or look at the pictures of that batch"


def _scaled(trainer: Trainer) -> bool:
    return getattr(trainer.precision_plugin, "scaler", None) is not None


def _all_finite(tensors: Iterable[Tensor]) -> Tensor:
    """Whether no element is infinite or not a number; left on the device."""
    found = [tensor.detach() for tensor in tensors]
    if not found:
        return torch.tensor(True)
    if found[0].is_cuda:  # one kernel for all; the largest magnitude cannot overflow
        extremes = list(torch._foreach_norm(found, torch.inf))
    else:  # a tenth of the norm's time on a processor; what is not a number is an extreme, too
        extremes = [extreme for tensor in found for extreme in tensor.aminmax()]
    return torch.stack([extreme.float() for extreme in extremes]).isfinite().all()

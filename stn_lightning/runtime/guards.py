"""Stop a training whose values are not finite."""

import math
from collections.abc import Iterable
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parameter import is_lazy
from torch.optim import Optimizer

from stn_lightning.runtime.distributed import all_reduce_max, leave_together
from stn_lightning.runtime.monitors import monitors

NEVER = 2**62
LOSS, GRADIENT, OVERFLOW = range(3)


class NonFiniteError(FloatingPointError):
    """A loss, gradient, weight or metric is not finite."""


def require_finite(module: nn.Module, source: str) -> None:
    """Check all parameters, and the running statistics of batch normalisation.

    Other buffers may be infinite on purpose, for example attention masks.

    Args:
        module: module with loaded parameters.
        source: file that they were loaded from, for the message.

    Raises:
        NonFiniteError: names the first tensor that is infinite or not a number.
    """
    tensors = _saved_tensors(module)
    if _all_finite(tensor for _, tensor in tensors):
        return
    for name, tensor in tensors:
        if not _all_finite([tensor]):
            raise NonFiniteError(f"{source}: {name} is not finite; use another checkpoint")


class NonFiniteGuard(Callback):
    """Stop on a loss or gradient that is not finite.

    It stops before the optimiser's step, and before a checkpoint is saved. In validation and test
    it checks the weights, all losses, and the metrics that a checkpoint, early stopping or a
    schedule monitors.

    On a GPU each check has to wait for the device. So the results are kept there, and read every
    `every` steps and before each checkpoint. The weights in memory may not be finite by then, those
    in checkpoints are.

    In 16-bit precision gradients may overflow: the gradient scaler skips the step and reduces its
    scale. Only many such steps in a row are an error.

    Args:
        every: number of steps between two checks on a GPU; on a CPU every step is checked.
        overflows: number of steps in a row that the gradient scaler may skip. Its scale starts at
            65536 and is halved each time, so it is 1/16 after 20 steps.

    Raises:
        NonFiniteError: in all processes; the message names step and process.
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
            self._raise_findings(trainer)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if isinstance(outputs, dict) and "loss" in outputs:
            # Lightning has divided the loss by accumulate_grad_batches
            loss = outputs["loss"].detach().float() * trainer.accumulate_grad_batches
            finite = loss.isfinite() & (self.findings["first"] == NEVER)
            self.findings["finite_loss"] = torch.where(finite, loss, self.findings["finite_loss"])
            self.findings["finite_step"] = torch.where(
                finite, trainer.global_step - 1, self.findings["finite_step"]
            )

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Check everything that is saved, including accumulated gradients."""
        self._raise_findings(trainer)
        tensors = [tensor for _, tensor in _saved_tensors(pl_module)]
        if not _scaled(trainer):
            tensors += [p.grad for p in pl_module.parameters() if p.grad is not None]
        if all_reduce_max(int(~_all_finite(tensors))):
            leave_together(trainer)
            raise NonFiniteError(
                "a parameter, its gradient or a running statistic is not finite "
                f"after {trainer.global_step} steps; {self._before()}"
            )

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.state.fn != "fit":
            self.on_test_start(trainer, pl_module)

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Check the weights, which are the same in all processes."""
        try:
            require_finite(pl_module, str(trainer.ckpt_path or "the network"))
        except NonFiniteError:
            leave_together(trainer)
            raise

    on_predict_start = on_test_start

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._check_metrics(trainer, "validation")

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._check_metrics(trainer, "test")

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._raise_findings(trainer)

    def _check_metrics(self, trainer: Trainer, split: str) -> None:
        names, monitored = sorted(trainer.callback_metrics), monitors(trainer)
        bad = [
            number
            for number, name in enumerate(names)
            if ("loss" in name or name in monitored)
            and not math.isfinite(trainer.callback_metrics[name])
        ]
        if first := all_reduce_max(bad[0] + 1 if bad else 0):
            leave_together(trainer)
            raise NonFiniteError(
                f"{names[first - 1]} is not finite in the {split} after {trainer.global_step} "
                "steps; try a smaller learning rate, or check the images of that split"
            )

    def _note(self, trainer: Trainer, what: int, bad: Tensor) -> None:
        """Store the first finding, without waiting for the device.

        Step, process and kind of the finding are encoded in one number.
        """
        number = (trainer.global_step * trainer.world_size + trainer.global_rank) * 3 + what
        self.findings["first"] = torch.where(
            bad, self.findings["first"].clamp(max=number), self.findings["first"]
        )

    def _raise_findings(self, trainer: Trainer) -> None:
        """Raise in all processes if any has a finding."""
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
            f"{found} not finite in step {step} (the first is 0) of process {rank}; "
            f"{self._before()}"
        )

    def _before(self) -> str:
        step, loss = int(self.findings["finite_step"]), float(self.findings["finite_loss"])
        before = (
            f"the last finite loss was {loss:.6g} in step {step}"
            if step >= 0
            else "no loss has been finite"
        )
        return (
            f"{before}; checkpoints are older and finite. "
            "Try a smaller learning rate, or check the images of that batch"
        )


def _scaled(trainer: Trainer) -> bool:
    return getattr(trainer.precision_plugin, "scaler", None) is not None


def _saved_tensors(module: nn.Module) -> list[tuple[str, Tensor]]:
    """Return parameters and running statistics, by name."""
    statistics = [
        (f"{name}.{statistic}".lstrip("."), value)
        for name, layer in module.named_modules()
        if isinstance(layer, _BatchNorm)
        for statistic, value in (
            ("running_mean", layer.running_mean),
            ("running_var", layer.running_var),
        )
        if value is not None
    ]
    sized = [*module.named_parameters(), *statistics]
    return [(name, tensor) for name, tensor in sized if not is_lazy(tensor)]


def _all_finite(tensors: Iterable[Tensor]) -> Tensor:
    """Return True, on the device, if all elements are finite."""
    found = [tensor.detach() for tensor in tensors if tensor.numel()]
    if not found:
        return torch.tensor(True)
    if found[0].is_cuda:  # one kernel for all; the largest magnitude does not overflow
        extremes = list(torch._foreach_norm(found, torch.inf))
    else:  # on a CPU aminmax takes a tenth of the norm's time; it returns NaN if there is one
        extremes = [extreme for tensor in found for extreme in tensor.aminmax()]
    return torch.stack([extreme.float() for extreme in extremes]).isfinite().all()

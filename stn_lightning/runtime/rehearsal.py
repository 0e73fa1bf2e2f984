"""A checkpoint's size, known before the first step."""

import copy
import shutil
from collections import defaultdict
from pathlib import Path
from typing import Any

import torch
from torch.optim import Optimizer

PLAIN = {"foreach": False, "fused": False, "capturable": False}
"""Settings of an optimiser under which it takes a step on any device."""


def state_after_a_step(optimizer: Optimizer) -> dict[str, Any]:
    """Return a state dict of the size after a step.

    Most optimisers make their moments in their first step: Adam's take twice the room of the
    weights. The step is taken on the meta device, which computes shapes alone. An optimiser that
    cannot step there (LBFGS needs a closure) gives its state of now.
    """
    if optimizer.state:
        return optimizer.state_dict()
    trial = copy.copy(optimizer)
    trial.state = defaultdict(dict)
    trial.param_groups = [
        {**group, **{key: PLAIN[key] for key in PLAIN if key in group}}
        | {"params": [_stand_in(parameter) for parameter in group["params"]]}
        for group in optimizer.param_groups
    ]
    try:
        type(optimizer).step(trial)  # the instance's own may be a schedule's wrapper
    except Exception:  # whatever an optimiser makes of tensors without numbers
        return optimizer.state_dict()
    return _on_cpu(type(optimizer).state_dict(trial))


def require_room(folder: Path, checkpoint: Path, files: int) -> None:
    """Compare a disk's free space with a run's checkpoints.

    Args:
        folder: folder of the checkpoints; those in it will be replaced.
        checkpoint: a checkpoint of the run's size, in the same folder.
        files: number of checkpoints that the run keeps.

    Raises:
        OSError: says how much is free and how much is needed.
    """
    disk = shutil.disk_usage(folder)
    there = sum(path.stat().st_size for path in folder.glob("*.ckpt"))
    needed = files * checkpoint.stat().st_size - there
    if disk.total and disk.free < needed:
        raise OSError(
            f"{folder}: {disk.free / 1e6:,.1f} MB are free on this disk, "
            f"and {files} checkpoints take {needed / 1e6:,.1f} MB more; make room"
        )


def _stand_in(parameter: torch.Tensor) -> torch.Tensor:
    """Return a tensor without numbers, for a parameter."""
    other = torch.empty_like(parameter, device="meta", requires_grad=parameter.requires_grad)
    if parameter.requires_grad:
        other.grad = torch.empty_like(other, requires_grad=False)
    return other


def _on_cpu(state: Any) -> Any:
    """Replace each tensor without numbers by zeros."""
    if isinstance(state, dict):
        return {key: _on_cpu(value) for key, value in state.items()}
    if isinstance(state, list | tuple):
        return type(state)(_on_cpu(value) for value in state)
    if isinstance(state, torch.Tensor) and state.is_meta:
        return torch.zeros_like(state, device="cpu")
    return state

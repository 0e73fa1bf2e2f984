"""Predict the size of checkpoints before the first step."""

import copy
import shutil
from collections import defaultdict
from pathlib import Path
from typing import Any

import torch
from torch.optim import Optimizer

PLAIN = {"foreach": False, "fused": False, "capturable": False}
"""Settings with which an optimiser can take a step on any device."""


def state_after_a_step(optimizer: Optimizer) -> dict[str, Any]:
    """Return a state dict as large as after a step.

    Most optimisers create their moments in the first step; those of Adam are twice as large as the
    weights. The step is taken on the meta device, which computes only shapes. The state of an
    optimiser that cannot do this (LBFGS needs a closure) is returned as it is.
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
        type(optimizer).step(trial)  # not `trial.step`, which a schedule may have wrapped
    except Exception:  # optimisers may raise any error on the meta device
        return optimizer.state_dict()
    return _on_cpu(type(optimizer).state_dict(trial))


def require_free_space(folder: Path, checkpoint: Path, files: int) -> None:
    """Check that the disk can hold a run's checkpoints.

    Args:
        folder: folder of the checkpoints; existing ones will be replaced.
        checkpoint: a checkpoint of full size, in the same folder.
        files: number of checkpoints that the run keeps.

    Raises:
        OSError: the disk is too full; the message says how much is free and how much is needed.
    """
    disk = shutil.disk_usage(folder)
    there = sum(path.stat().st_size for path in folder.glob("*.ckpt"))
    needed = files * checkpoint.stat().st_size - there
    if disk.total and disk.free < needed:
        raise OSError(
            f"{folder}: {disk.free / 1e6:,.1f} MB are free on this disk, "
            f"and {files} checkpoints take {needed / 1e6:,.1f} MB more; delete other files"
        )


def _stand_in(parameter: torch.Tensor) -> torch.Tensor:
    """Return a tensor like a parameter on the meta device."""
    other = torch.empty_like(parameter, device="meta", requires_grad=parameter.requires_grad)
    if parameter.requires_grad:
        other.grad = torch.empty_like(other, requires_grad=False)
    return other


def _on_cpu(state: Any) -> Any:
    """Replace tensors on the meta device by zeros."""
    if isinstance(state, dict):
        return {key: _on_cpu(value) for key, value in state.items()}
    if isinstance(state, list | tuple):
        return type(state)(_on_cpu(value) for value in state)
    if isinstance(state, torch.Tensor) and state.is_meta:
        return torch.zeros_like(state, device="cpu")
    return state

"""Penalties for crops, which a task adds to its loss."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from stn_lightning.geometry.measures import out_of_bounds_penalty
from stn_lightning.geometry.overlap import overlap_penalty
from stn_lightning.tasks.equivariance import Equivariance
from stn_lightning.transformers import ParallelTransformer, Transformer, WarpRecord


def add_penalties(
    loss: Float[Tensor, ""],
    records: Sequence[WarpRecord],
    out_of_bounds_weight: float,
    overlap_weight: float,
) -> Float[Tensor, ""]:
    """Add the penalties of all transformers to the loss.

    Args:
        loss: mean loss of a batch.
        records: warps of the batch.
        out_of_bounds_weight: weight of `geometry.measures.out_of_bounds_penalty`.
        overlap_weight: weight of `geometry.overlap.overlap_penalty`.
    """
    grids = [record.grids for record in records]
    if out_of_bounds_weight and grids:
        penalties = [out_of_bounds_penalty(each.flatten(0, 1)).mean() for each in grids]
        loss = loss + out_of_bounds_weight * torch.stack(penalties).sum()
    if overlap_weight and grids:
        penalties = [overlap_penalty(each).mean() for each in grids]
        loss = loss + overlap_weight * torch.stack(penalties).sum()
    return loss


def check_penalties(
    task: nn.Module,
    transformer: Transformer | None,
    out_of_bounds_weight: float,
    overlap_weight: float,
    equivariance: Equivariance | None,
) -> None:
    """Refuse penalties that the task's transformers cannot have.

    Args:
        task: task with all transformers.
        transformer: transformer in front of the backbone, if any.
        out_of_bounds_weight: weight of the penalty for points out of bounds.
        overlap_weight: weight of the penalty for overlapping crops.
        equivariance: penalty for crops that do not move with their images.

    Raises:
        ValueError: names the option, and what is missing.
    """
    if equivariance and (transformer is None or transformer.family.dimensions != 2):
        raise ValueError(
            "equivariance needs a transformer of images in front of the backbone; give "
            "--model.init_args.transformer, or leave --model.init_args.equivariance out"
        )
    needed = (
        ("out_of_bounds_penalty", out_of_bounds_weight, Transformer, "a transformer"),
        ("overlap_penalty", overlap_weight, ParallelTransformer, "parallel transformers"),
    )
    for option, weight, kind, name in needed:
        if weight and not any(isinstance(module, kind) for module in task.modules()):
            raise ValueError(
                f"{option} {weight:g} needs {name}, and the network has none; "
                f"leave --model.init_args.{option} out"
            )

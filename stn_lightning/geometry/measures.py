"""Measures of sampling grids: bounds, scales, displacement.

Convention:
    Lengths are in pixels of the input. For scales the output counts as an image of the input's
    height and width, whatever its own size. So the identity has scale 1, and so has a rotation,
    also in an image that is not square.
"""

import math
from collections.abc import Sequence
from functools import reduce

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional

from stn_lightning.geometry.lattice import points, upcast
from stn_lightning.shapes import GridsND

_CELLS = 4
"""Largest number of cells, along each axis, in which scales are measured."""


def fraction_out_of_bounds(grid: GridsND) -> Float[Tensor, " batch"]:
    """Return the fraction of points out of bounds."""
    # one coordinate at a time, in the order in which a grid lies in memory
    outside = reduce(torch.logical_or, (upcast(grid).abs() > 1).unbind(-1))
    return outside.flatten(1).float().mean(1)


def out_of_bounds_penalty(grid: GridsND) -> Float[Tensor, " batch"]:
    """Penalise points out of bounds, where images have no gradient.

    The penalty of a point is Huber's function of its distance d from the border, summed over the
    axes: d^2 / 2 up to d = 1, then d - 1/2, in halves of the image's side. The result is the sum of
    two means over all points: of the crop, and of the same crop moved to the image's centre. The
    second is above 0 only for crops larger than the image.

    Convention:
        The gradient of the first mean shifts the crop, and does not change its shape. The gradient
        of the second shrinks it. Otherwise a small crop would shrink to a point instead of moving
        back into the image.
    """
    grid = upcast(grid)
    axes = tuple(range(1, grid.dim() - 1))
    centre = grid.mean(axes, keepdim=True)
    middle = (grid.amax(axes, keepdim=True) + grid.amin(axes, keepdim=True)) / 2
    return _huber(grid.detach() + (centre - centre.detach())) + _huber(grid - middle)


def _huber(grid: GridsND) -> Float[Tensor, " batch"]:
    beyond = functional.relu(grid.abs() - 1)
    near = beyond.clamp(max=1)
    return (near * near / 2 + (beyond - near)).sum(-1).flatten(1).mean(1)


def displacement(grid: GridsND, image_size: Sequence[int]) -> Float[Tensor, " batch"]:
    """Return the mean displacement, in pixels."""
    grid = upcast(grid)
    moved = (grid - points(grid.shape[1:-1], grid)) * _pixels_per_unit(image_size, grid)
    # torch.linalg.norm over the last axis takes ten times as long
    return reduce(torch.add, moved.square().unbind(-1)).sqrt().flatten(1).mean(1)


def spread(grid: GridsND, image_size: Sequence[int]) -> Float[Tensor, ""]:
    """Return a point's standard deviation over the batch, in pixels."""
    grid = upcast(grid) * _pixels_per_unit(image_size, grid)
    # torch.var takes ten times as long
    return (grid - grid.mean(0)).square().mean(0).sum(-1).mean().sqrt()


def scales(grid: GridsND, image_size: Sequence[int]) -> Float[Tensor, "batch cells dimensions"]:
    """Return the grid's scales, the largest first.

    They are the singular values of its Jacobian. A scale below 1 enlarges the image, a scale above
    1 shrinks it.

    Returns:
        Scales in each cell of a mesh over the grid: exact for affine maps, otherwise of the mean
        Jacobian of the cell.

    Raises:
        ValueError: the output is one pixel wide or high, so that it has no slope.
    """
    size, dimensions = grid.shape[1:-1], grid.shape[-1]
    if min(size) < 2:
        raise ValueError(
            f"a grid of size {tuple(size)} has no slope; "
            "scales need 2 pixels or more along each axis"
        )
    knots, steps = upcast(grid), []
    for axis, n in enumerate(size, start=1):
        cells = min(_CELLS, n - 1)
        index = (torch.arange(cells + 1, device=grid.device) * (n - 1)) // cells
        knots = knots.index_select(axis, index)
        steps.append(index.diff() * (2 / n))  # between knots, in normalised output coordinates
    pixel, columns = _pixels_per_unit(image_size, knots), []
    for axis, step in enumerate(steps, start=1):  # axis 1 is the height, whose coordinate is y
        slope = knots.diff(dim=axis) / step.reshape(-1, *[1] * (dimensions + 1 - axis))
        for other in range(1, dimensions + 1):
            if other != axis:  # average over both sides of a cell
                n = slope.shape[other] - 1
                slope = (slope.narrow(other, 0, n) + slope.narrow(other, 1, n)) / 2
        columns.append(slope * (pixel / pixel[dimensions - axis]))
    jacobian = torch.stack(columns[::-1], dim=-1).flatten(1, dimensions)  # (B, cells, to, from)
    known = jacobian.isfinite().all(-1).all(-1)  # a decomposition refuses others
    values: Tensor = torch.linalg.svdvals(jacobian.where(known[..., None, None], 0))
    return values.where(known[..., None], math.nan)


def is_mirrored(grid: GridsND) -> Bool[Tensor, " batch"]:
    """Return whether crops are mirrored.

    This is the sign of the determinant of the mean Jacobian. A rotation mirrors nothing, and a grid
    of one row or column counts as not mirrored.
    """
    grid, steps = upcast(grid), []
    for axis in range(grid.dim() - 2, 0, -1):  # the last of them is along x, the first coordinate
        step = grid.select(axis, -1) - grid.select(axis, 0)
        steps.append(step.flatten(1, -2).mean(1))
    return torch.linalg.det(torch.stack(steps, dim=-1)) < 0


def _pixels_per_unit(
    image_size: Sequence[int], like: Float[Tensor, "*shape"]
) -> Float[Tensor, " dimensions"]:
    return upcast(like).new_tensor([n / 2 for n in reversed(image_size)])

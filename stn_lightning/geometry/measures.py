"""Measures of sampling grids: bounds, scales, displacement.

Convention:
    Lengths are pixels of the input. Scales are those of a map from the output's frame to the
    input's, both of the input's height and width: the identity has scale 1 for any size of the
    output, and a rotation has scale 1 in an image that is not square, too.
"""

from collections.abc import Sequence
from functools import reduce

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from stn_lightning.geometry.lattice import points, upcast

_CELLS = 4
"""Cells along each axis of the mesh on which scales are measured."""


def fraction_out_of_bounds(
    grid: Float[Tensor, "batch *size dimensions"],
) -> Float[Tensor, " batch"]:
    """Return the fraction of points out of bounds."""
    # planes, which a grid lies in, are the fastest to go through
    outside = reduce(torch.logical_or, (upcast(grid).abs() > 1).unbind(-1))
    return outside.flatten(1).float().mean(1)


def out_of_bounds_penalty(grid: Float[Tensor, "batch *size dimensions"]) -> Float[Tensor, " batch"]:
    """Penalise points out of bounds.

    The image has no gradient there. Along each axis a point d beyond the border, in halves of the
    image's side, costs d^2 / 2, and d - 1/2 where d > 1. To this is added the cost that remains if
    the crop is moved to the image's centre, which a crop that is too large has.

    Convention:
        The gradient of the first part moves a crop as a whole and leaves its shape alone; that of
        the second part shrinks it. For a crop that is small enough, shrinking to a point would be
        the shorter way inside, and nothing would be gained.
    """
    grid = upcast(grid)
    axes = tuple(range(1, grid.dim() - 1))
    centre = grid.mean(axes, keepdim=True)
    middle = (grid.amax(axes, keepdim=True) + grid.amin(axes, keepdim=True)) / 2
    return _huber(grid.detach() + (centre - centre.detach())) + _huber(grid - middle)


def _huber(grid: Float[Tensor, "batch *size dimensions"]) -> Float[Tensor, " batch"]:
    beyond = functional.relu(grid.abs() - 1)
    near = beyond.clamp(max=1)
    return (near * near / 2 + (beyond - near)).sum(-1).flatten(1).mean(1)


def displacement(
    grid: Float[Tensor, "batch *size dimensions"], image_size: Sequence[int]
) -> Float[Tensor, " batch"]:
    """Return the mean distance to the identity, in pixels."""
    grid = upcast(grid)
    moved = (grid - points(grid.shape[1:-1], grid)) * _pixels_per_unit(image_size, grid)
    # over a strided axis PyTorch's norm takes ten times as long
    return reduce(torch.add, moved.square().unbind(-1)).sqrt().flatten(1).mean(1)


def spread(
    grid: Float[Tensor, "batch *size dimensions"], image_size: Sequence[int]
) -> Float[Tensor, ""]:
    """Return a point's standard deviation over the batch, in pixels."""
    grid = upcast(grid) * _pixels_per_unit(image_size, grid)
    # PyTorch's var takes ten times as long
    return (grid - grid.mean(0)).square().mean(0).sum(-1).mean().sqrt()


def scales(
    grid: Float[Tensor, "batch *size dimensions"], image_size: Sequence[int]
) -> Float[Tensor, "batch cells dimensions"]:
    """Return the grid's scales, the largest first.

    They are the singular values of its Jacobian. Below 1 the output enlarges the image, above 1 it
    shrinks it.

    Returns:
        Scales in each cell of a mesh over the grid: exact for affine maps, else the cell's mean.

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
        steps.append(index.diff() * (2 / n))  # of the output's coordinate, from knot to knot
    pixel, columns = _pixels_per_unit(image_size, knots), []
    for axis, step in enumerate(steps, start=1):  # height first; its coordinate comes after x
        slope = knots.diff(dim=axis) / step.reshape(-1, *[1] * (dimensions + 1 - axis))
        for other in range(1, dimensions + 1):
            if other != axis:  # the mean of both sides of a cell
                n = slope.shape[other] - 1
                slope = (slope.narrow(other, 0, n) + slope.narrow(other, 1, n)) / 2
        columns.append(slope * (pixel / pixel[dimensions - axis]))
    jacobian = torch.stack(columns[::-1], dim=-1).flatten(1, dimensions)  # (B, cells, to, from)
    return torch.linalg.svdvals(jacobian)


def _pixels_per_unit(
    image_size: Sequence[int], like: Float[Tensor, "*shape"]
) -> Float[Tensor, " dimensions"]:
    return upcast(like).new_tensor([n / 2 for n in reversed(image_size)])

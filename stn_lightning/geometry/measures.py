"""What can be said of any grid, whatever family it is from: how much of it lies outside of the
image, how it scales, how far it moves.

Convention:
    Lengths are pixels of the input. Scales are those of a map from the frame of the output to that
    of the input, both of the input's height and width: the identity has scale 1 for any size of the
    output, and a turn has scale 1 in an image that is not square too.
"""

from collections.abc import Sequence
from functools import reduce

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from stn_lightning.geometry.lattice import exact, points

_CELLS = 4
"""Along each axis, of the mesh on which scales are measured."""


def fraction_out_of_bounds(
    grid: Float[Tensor, "batch *size dimensions"],
) -> Float[Tensor, " batch"]:
    """The part of the points that lies outside of the image, from 0 to 1."""
    beyond = reduce(
        torch.logical_or, (exact(grid).abs() > 1).unbind(-1)
    )  # planes, which a grid lies in, are gone through fastest
    return beyond.flatten(1).float().mean(1)


def out_of_bounds_penalty(grid: Float[Tensor, "batch *size dimensions"]) -> Float[Tensor, " batch"]:
    """How far points lie beyond the border, on average: a penalty that brings a crop back from
    where the image has no gradient.

    Along each axis a point d beyond the border, in halves of the image's side, costs d^2 / 2, and d
    - 1/2 where d > 1; inside it costs
    nothing. To this is added what would be left if the crop lay in the middle of the image: what it
    is too large by.

    Convention:
        The gradient of the first part moves a crop as a whole and leaves its shape alone; that of
        the second part shrinks it. For a crop that is small enough, shrinking to a point would be
        the shorter way inside, and nothing would be gained.
    """
    where = exact(grid)
    over = tuple(range(1, grid.dim() - 1))
    centre = where.mean(over, keepdim=True)
    middle = (where.amax(over, keepdim=True) + where.amin(over, keepdim=True)) / 2
    return _beyond(where.detach() + (centre - centre.detach())) + _beyond(where - middle)


def _beyond(where: Float[Tensor, "batch *size dimensions"]) -> Float[Tensor, " batch"]:
    beyond = functional.relu(where.abs() - 1)
    near = beyond.clamp(max=1)
    return (near * near / 2 + (beyond - near)).sum(-1).flatten(1).mean(1)


def displacement(
    grid: Float[Tensor, "batch *size dimensions"], image_size: Sequence[int]
) -> Float[Tensor, " batch"]:
    """How far points lie from where the identity has them, on average, in pixels of an image of
    `image_size`.
    """
    where = exact(grid)
    moved = where - points(grid.shape[1:-1], where)
    pixels = (moved * _halves(image_size, where)).square()
    return (
        reduce(torch.add, pixels.unbind(-1)).sqrt().flatten(1).mean(1)
    )  # over a strided axis PyTorch's norm takes ten times as long


def spread(
    grid: Float[Tensor, "batch *size dimensions"], image_size: Sequence[int]
) -> Float[Tensor, ""]:
    """How differently the pictures of a batch are looked at: the standard deviation of a point, in
    pixels of an image of `image_size`.
    """
    where = exact(grid) * _halves(image_size, grid)
    return (
        (where - where.mean(0)).square().mean(0).sum(-1).mean().sqrt()
    )  # PyTorch's var takes ten times as long


def scales(
    grid: Float[Tensor, "batch *size dimensions"], image_size: Sequence[int]
) -> Float[Tensor, "batch cells dimensions"]:
    """The singular values of the grid's Jacobian in each cell of a mesh over it, the largest first.

    Below 1 the output enlarges what it shows of the image, above 1 it shrinks it. Exact where the
    map is affine, else the mean over a cell.

    Raises:
        ValueError: where the output is one pixel wide or high, so that it has no slope.
    """
    size, dimensions = grid.shape[1:-1], grid.shape[-1]
    if min(size) < 2:
        raise ValueError(
            f"a grid of size {tuple(size)} has no slope; scales need 2 pixels or more along each axis"
        )
    knots, steps = exact(grid), []
    for axis, n in enumerate(size, start=1):
        cells = min(_CELLS, n - 1)
        index = (torch.arange(cells + 1, device=grid.device) * (n - 1)) // cells
        knots = knots.index_select(axis, index)
        steps.append(index.diff() * (2 / n))  # of the output's coordinate, from knot to knot
    pixel, columns = _halves(image_size, knots), []
    for axis, step in enumerate(
        steps, start=1
    ):  # height first, whose coordinate is the last but one or two
        slope = knots.diff(dim=axis) / step.reshape(-1, *[1] * (dimensions + 1 - axis))
        for other in range(1, dimensions + 1):
            if other != axis:  # the mean of both sides of a cell
                n = slope.shape[other] - 1
                slope = (slope.narrow(other, 0, n) + slope.narrow(other, 1, n)) / 2
        columns.append(slope * (pixel / pixel[dimensions - axis]))
    jacobian = torch.stack(columns[::-1], dim=-1).flatten(1, dimensions)  # (B, cells, from, to)
    return torch.linalg.svdvals(jacobian)


def _halves(
    image_size: Sequence[int], like: Float[Tensor, "*shape"]
) -> Float[Tensor, " dimensions"]:
    """What a coordinate is worth in pixels: half of the image's width and height."""
    return exact(like).new_tensor([n / 2 for n in reversed(image_size)])

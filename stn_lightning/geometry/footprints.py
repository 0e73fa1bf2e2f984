"""Footprints: areas of the image that output pixels cover.

A footprint is the parallelogram in the input to which the grid maps an output pixel. It is
described by the singular values of the grid's Jacobian, called its sides. The Jacobian is measured
by differences of the grid in the cells of a mesh. `antialiasing` explains how footprints are used.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from stn_lightning.shapes import Grids

_CELLS = 8
"""Greatest number of cells of the mesh along each axis."""

_PLATEAU = 0.1
"""A sample uses a single level if its squared side differs from the level's by less than this
fraction of the distance to the next level.
"""

_SHRINKING = 1 + 2.0**-10
"""Squared scale above which the grid counts as shrinking. The margin above 1 is for rounding."""

_ROUND = 1.4
"""Largest ratio of the squared sides of a footprint that is sampled once."""

NUM_SAMPLES = 3
"""Number of samples of a longer footprint."""

_BREADTH = (0.75 / NUM_SAMPLES) ** 2
"""Smallest squared side of a sample, relative to the longer squared side of the footprint. Three
samples of a third each would cover the footprint evenly. Narrower ones blur less across it, at the
cost of a little aliasing.
"""

_FAR = 2.0**10
"""Largest coordinate of the mesh's points; further ones are clamped."""


class Footprint(NamedTuple):
    """Footprint in each cell of the mesh.

    Tensors are (batch, rows, columns). Lengths are squared, in pixels.
    """

    breadth: Tensor
    """Squared side of the square over which each sample is the mean."""
    stretch: Tensor
    """Squared longer side minus `_ROUND` times the squared shorter one; 0 if one sample is enough.
    """
    angle: Tensor
    """Angle between the longer side and the x axis, in radians."""


def measure_footprints(grid: Grids, size: Sequence[int], top: int) -> Footprint:
    """Measure the footprint in each cell of the mesh.

    Args:
        grid: sampling grid.
        size: (height, width) of the image.
        top: highest level of the pyramid.
    """
    rows, columns = (_mesh(n, grid) for n in grid.shape[1:3])
    knots = grid.index_select(1, rows).index_select(2, columns).clamp(-_FAR, _FAR)
    right = (knots[:, :, 1:] - knots[:, :, :-1]) / columns.diff().clamp(min=1)[:, None]
    down = (knots[:, 1:] - knots[:, :-1]) / rows.diff().clamp(min=1)[:, None, None]
    # columns of the Jacobian J
    sides = ((right[:, 1:] + right[:, :-1]) / 2, (down[:, :, 1:] + down[:, :, :-1]) / 2)
    pixel = grid.new_tensor([size[1] / 2, size[0] / 2])
    limit = 2.0 ** (top + 2)  # larger than any level, and its square does not overflow
    (ax, ay), (bx, by) = ((side * pixel).clamp(-limit, limit).unbind(-1) for side in sides)
    # J J^T, whose eigenvalues are the squared sides
    x, y, cross = ax * ax + bx * bx, ay * ay + by * by, ax * ay + bx * by
    middle, half = (x + y) / 2, (x - y) / 2
    squared = half * half + cross * cross
    even = squared == 0
    # the gradient of sqrt at 0 is not finite
    difference = torch.where(even, 0, torch.where(even, 1, squared).sqrt())
    grown = (middle + difference - _SHRINKING).clamp(0, 1)
    longer, shorter = (middle + difference) * grown, (middle - difference) * grown
    least = torch.maximum(shorter, longer * _BREADTH)
    stretch = functional.relu(longer - _ROUND * least)
    # the mean of both sides where nothing is stretched
    breadth = torch.maximum((longer + shorter - stretch) / 2, least)
    return Footprint(breadth, stretch, torch.atan2(cross, torch.where(even, 1, half)) / 2)


def _mesh(n: int, like: Float[Tensor, "*shape"]) -> Int[Tensor, " knots"]:
    """Return the mesh's pixels along an axis."""
    cells = max(1, min(_CELLS, n - 1))
    return (torch.arange(cells + 1, device=like.device) * (n - 1) + cells // 2) // cells


def level_shares(
    breadth: Float[Tensor, "batch rows columns"], top: int
) -> Float[Tensor, "batch levels rows columns"]:
    """Return the weight of each level; they sum to 1."""
    ramps = [(0.0, 1.0 - _PLATEAU)] + [
        (4.0**k * (1 + 3 * _PLATEAU), 4.0 ** (k + 1) * (1 - 0.75 * _PLATEAU))
        for k in range(top - 1)
    ]
    reached = [((breadth - first) / (last - first)).clamp(0, 1) for first, last in ramps]
    reached = [torch.ones_like(breadth), *reached, torch.zeros_like(breadth)]
    return torch.stack([a - b for a, b in pairwise(reached)], dim=1)


def outer_samples(
    footprint: Footprint, size: Sequence[int]
) -> tuple[Float[Tensor, "batch 1 rows columns"], Float[Tensor, "batch 2 rows columns"]]:
    """Return weight and offset of the two outer samples.

    The weight grows from 0 to a third as footprints become longer. The offset from the centre is in
    normalised units.
    """
    room = (2 * footprint.breadth).clamp(min=1e-6)
    share = (footprint.stretch / room).clamp(max=1) / NUM_SAMPLES
    # the variance of the three samples, 2 share distance^2, becomes stretch / 12
    distance = (torch.maximum(footprint.stretch, room) / 8).sqrt()
    x = distance * footprint.angle.cos() * (2 / size[1])
    y = distance * footprint.angle.sin() * (2 / size[0])
    return share[:, None], torch.stack([x, y], dim=1)

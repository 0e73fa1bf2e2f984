"""Outlines of crops, and how much crops overlap.

Convention:
    Points are (x, y) from -1 to 1, border to border. The outline of a crop goes through the
    centres of the crop's outermost pixels.

Reference:
    Jaderberg et al. 2015, section 4.3 (one transformer finds heads, another bodies).
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional

from stn_lightning.geometry import lattice
from stn_lightning.shapes import Grids


def outline(grid: Float[Tensor, "*batch height width 2"]) -> Float[Tensor, "*batch corners 2"]:
    """Return a grid's border, clockwise from the top left."""
    top, bottom = grid[..., 0, :, :], grid[..., -1, :-1, :].flip(-2)
    right, left = grid[..., 1:, -1, :], grid[..., 1:-1, 0, :].flip(-2)
    return torch.cat([top, right, bottom, left], dim=-2)


def contains_points(grid: Grids, points: Float[Tensor, "batch n 2"]) -> Bool[Tensor, "batch n"]:
    """Return which points are inside the outline of the crop.

    A point is inside if a ray from it to the right crosses the outline an odd number of times.
    """
    x, y = points[:, :, None].unbind(-1)  # (B, n, 1)
    return (x < _crossings(outline(lattice.upcast(grid)), y)).sum(-1) % 2 == 1


def contains_lattice(grid: Grids, cells: int) -> Bool[Tensor, "batch cells cells"]:
    """Return which points of a lattice a crop contains.

    For finite grids the result is that of `contains_points`, but each row of points is compared
    with the outline only once.

    Args:
        grid: sampling grid of each crop.
        cells: number of points along each axis, 1 or more.
    """
    axis = lattice.axis(cells, lattice.upcast(grid))
    border = outline(lattice.upcast(grid))
    crossings = _crossings(border, axis[:, None]).sort(-1).values  # (B, cells, corners)
    x = axis.expand(*crossings.shape[:2], -1).contiguous()
    to_the_right = crossings.shape[-1] - torch.searchsorted(crossings, x, right=True)
    return to_the_right % 2 == 1


def _crossings(
    border: Float[Tensor, "batch corners 2"], y: Float[Tensor, "*rows 1"]
) -> Float[Tensor, "batch n corners"]:
    """Return x of each edge at each row, or -inf."""
    (x1, y1), (x2, y2) = border[:, None].unbind(-1), border.roll(-1, 1)[:, None].unbind(-1)
    crossing = x1 + (y - y1) / torch.where(y2 == y1, 1, y2 - y1) * (x2 - x1)
    return torch.where((y1 > y) != (y2 > y), crossing, -torch.inf)


def intersection_over_union(
    grids: Float[Tensor, "batch n height width 2"], cells: int = 48
) -> Float[Tensor, "batch n n"]:
    """Return the intersection over union of each pair of crops.

    Args:
        grids: sampling grids of `n` crops of each image.
        cells: areas are measured by counting points of a lattice of `cells` x `cells` points.
    """
    shown = contains_lattice(grids.flatten(0, 1), cells).flatten(1)
    shown = shown.unflatten(0, grids.shape[:2]).float()
    both = shown @ shown.transpose(1, 2)
    area = shown.sum(-1)
    return both / (area[:, :, None] + area[:, None] - both).clamp(min=1)


def overlap_penalty(grids: Float[Tensor, "batch n height width 2"]) -> Float[Tensor, " batch"]:
    """Penalise crops that overlap.

    Returns:
        The overlap of the bounding boxes, mean over all pairs of crops: 1 if they are the same, 0
        if they do not touch.

    Convention:
        The gradient shifts the crops and does not change their sizes; otherwise they would shrink
        instead of moving apart.
    """
    points = lattice.upcast(grids).flatten(2, 3)
    centre = points.mean(2)  # (B, n, 2)
    half = ((points.amax(2) - points.amin(2)) / 2).detach()
    gap = (centre[:, :, None] - centre[:, None]).abs()
    reach = half[:, :, None] + half[:, None]
    both = functional.relu(1 - gap / reach.clamp(min=1e-6)).prod(-1)  # (B, n, n)
    n = grids.shape[1]
    return (both.sum((1, 2)) - n) / max(n * (n - 1), 1)

"""Outlines of crops, and how much crops overlap.

Convention:
    Points and grids are (x, y) from -1 to 1, border to border. A grid's outline runs through the
    centres of its outermost pixels.

Reference:
    Jaderberg et al. 2015, section 4.3 (one transformer finds heads, another bodies).
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional

from stn_lightning.geometry import lattice


def outline(grid: Float[Tensor, "*batch height width 2"]) -> Float[Tensor, "*batch corners 2"]:
    """Return a grid's border, clockwise from the top left."""
    top, bottom = grid[..., 0, :, :], grid[..., -1, :-1, :].flip(-2)
    right, left = grid[..., 1:, -1, :], grid[..., 1:-1, 0, :].flip(-2)
    return torch.cat([top, right, bottom, left], dim=-2)


def contains_points(
    grid: Float[Tensor, "batch height width 2"], points: Float[Tensor, "batch n 2"]
) -> Bool[Tensor, "batch n"]:
    """Tell which points of the image a crop shows.

    Counts how often a ray to the right crosses the outline.
    """
    first = outline(grid)[:, None]  # (B, 1, corners, 2)
    (x1, y1), (x2, y2) = first.unbind(-1), first.roll(-1, 2).unbind(-1)
    x, y = points[:, :, None].unbind(-1)  # (B, n, 1)
    between = (y1 > y) != (y2 > y)
    crossing = x1 + (y - y1) / torch.where(y2 == y1, 1, y2 - y1) * (x2 - x1)
    return (between & (x < crossing)).sum(-1) % 2 == 1


def intersection_over_union(
    grids: Float[Tensor, "batch n height width 2"], cells: int = 48
) -> Float[Tensor, "batch n n"]:
    """Return the intersection over union of each pair of crops.

    Args:
        grids: sampling grids of `n` crops of each image.
        cells: areas are counted on `cells` x `cells` points of the image.
    """
    points = lattice.points((cells, cells), lattice.upcast(grids)).flatten(0, 1)
    batch, n = grids.shape[:2]
    shown = contains_points(grids.flatten(0, 1), points.expand(batch * n, -1, -1))
    shown = shown.unflatten(0, (batch, n)).float()
    both = shown @ shown.transpose(1, 2)
    area = shown.sum(-1)
    return both / (area[:, :, None] + area[:, None] - both).clamp(min=1)


def overlap_penalty(grids: Float[Tensor, "batch n height width 2"]) -> Float[Tensor, " batch"]:
    """Penalise crops that overlap.

    Returns:
        The mean over all pairs of the overlap of their bounding boxes: 1 where they are the same,
        0 where they are apart.

    Convention:
        Its gradient moves crops as a whole and leaves their sizes alone: shrinking would be the
        shorter way apart.
    """
    points = lattice.upcast(grids).flatten(2, 3)
    centre = points.mean(2)  # (B, n, 2)
    half = ((points.amax(2) - points.amin(2)) / 2).detach()
    gap = (centre[:, :, None] - centre[:, None]).abs()
    reach = half[:, :, None] + half[:, None]
    both = functional.relu(1 - gap / reach.clamp(min=1e-6)).prod(-1)  # (B, n, n)
    n = grids.shape[1]
    return (both.sum((1, 2)) - n) / max(n * (n - 1), 1)

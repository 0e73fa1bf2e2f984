"""What a crop shows, and how much crops share: polygons around grids.

Convention:
    Points and grids are (x, y) from -1 to 1, border to border, as everywhere. A grid's outline runs
    through the centres of its outermost pixels.

Reference:
    Jaderberg et al. 2015, section 4.3 (one transformer finds heads, another bodies).
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional

from stn_lightning.geometry.lattice import exact


def outline(grid: Float[Tensor, "batch height width 2"]) -> Float[Tensor, "batch corners 2"]:
    """The rim of a grid as a polygon, clockwise from its upper left."""
    return torch.cat(
        [grid[:, 0], grid[:, 1:, -1], grid[:, -1, :-1].flip(1), grid[:, 1:-1, 0].flip(1)], dim=1
    )


def contains_points(
    grid: Float[Tensor, "batch height width 2"], points: Float[Tensor, "batch n 2"]
) -> Bool[Tensor, "batch n"]:
    """Whether each point of the image lies inside of what the grid shows; of any family, however it
    bends.

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
    """Of what each two crops show of the image, counted on a lattice of `cells` x `cells` points
    over it.
    """
    axis = (torch.arange(cells, device=grids.device) * 2 + 1 - cells) / cells
    lattice = torch.stack(torch.meshgrid(axis, axis, indexing="xy"), dim=-1).flatten(0, 1)
    batch, n = grids.shape[:2]
    shown = (
        contains_points(grids.flatten(0, 1), lattice.expand(batch * n, -1, -1))
        .unflatten(0, (batch, n))
        .float()
    )
    both = shown @ shown.transpose(1, 2)
    alone = shown.sum(-1)
    return both / (alone[:, :, None] + alone[:, None] - both).clamp(min=1)


def overlap_penalty(grids: Float[Tensor, "batch n height width 2"]) -> Float[Tensor, " batch"]:
    """How much crops share, as a loss: the mean over all pairs of the overlap of their bounding
    boxes, 1 where they are the same, 0 apart.

    Convention:
        Its gradient moves crops as a whole and leaves their sizes alone: shrinking would be the
        shorter way apart.
    """
    points = exact(grids).flatten(2, 3)
    centre = points.mean(2)  # (B, n, 2)
    half = ((points.amax(2) - points.amin(2)) / 2).detach()
    gap = (centre[:, :, None] - centre[:, None]).abs()
    reach = half[:, :, None] + half[:, None]
    both = functional.relu(1 - gap / reach.clamp(min=1e-6)).prod(-1)  # (B, n, n)
    n = grids.shape[1]
    return (both.sum((1, 2)) - n) / max(n * (n - 1), 1)

"""Projective maps of the plane (homographies), 8 parameters.

Convention:
    theta = (h1 ... h8), the rows of a 3x3 matrix whose last entry is 1; the input point is (h1 x +
    h2 y + h3, h4 x + h5 y + h6) / w with w = h7 x + h8 y + 1. Where w is not clearly positive the
    output pixel looks beyond the horizon; w is held at `HORIZON` there, which sends the point far
    away but keeps it and its gradient finite.

Reference:
    Jaderberg et al. 2015, section 3.2 (plane projective, 8 parameters); Heckbert 1989,
    "Fundamentals of Texture Mapping and Image Warping", section 2.2.3 (a square onto a
    quadrilateral).
"""

import torch
from jaxtyping import Float
from torch import Tensor

from stn_lightning.geometry.lattice import axis, exact

HORIZON = 2.0**-10


def grid(
    theta: Float[Tensor, "batch 8"], size: tuple[int, int]
) -> Float[Tensor, "batch height width 2"]:
    """Where in the input each of `size`'s output pixels looks; finite for every finite theta."""
    theta = exact(theta)[:, :, None, None]
    of_x, of_y, shift = (
        theta[:, :6].unflatten(1, (2, 3)).unbind(2)
    )  # (h1, h4), (h2, h5), (h3, h6); each (B, 2, 1, 1)
    h7, h8 = theta[:, 6:].split(1, dim=1)  # each (B, 1, 1, 1)
    x, y = axis(size[1], theta), axis(size[0], theta)[:, None]
    w = (h7 * x + (h8 * y + 1)).clamp(min=HORIZON)  # (B, 1, H, W)
    return ((of_x * x + (of_y * y + shift)) / w).movedim(1, -1)  # (B, H, W, 2)


def compose(
    first: Float[Tensor, "batch 8"], then: Float[Tensor, "batch 8"]
) -> Float[Tensor, "batch 8"]:
    """The one warp that does what warping with `first` and then warping the result with `then`
    does.

    Convention:
        theta maps output to input, so the composed map is first(then(point)).
    """
    product = (_matrix(first)[:, :, :, None] * _matrix(then)[:, None, :, :]).sum(
        2
    )  # (B, 3, 3), no matrix product
    return _theta(product)


def inverse(theta: Float[Tensor, "batch 8"]) -> Float[Tensor, "batch 8"]:
    """The map back, from input to output, by the adjugate (a homography is one up to a factor)."""
    return _theta(_adjugate(_matrix(theta)))


def from_affine(theta: Float[Tensor, "batch 6"]) -> Float[Tensor, "batch 8"]:
    """An affine map as a projective one."""
    return torch.cat([exact(theta), exact(theta).new_zeros(theta.shape[0], 2)], dim=1)


def from_corners(corners: Float[Tensor, "batch 4 2"]) -> Float[Tensor, "batch 8"]:
    """The map that takes the corners of the output to these points of the input.

    Args:
        corners: where the output's (-1, -1), (1, -1), (1, 1) and (-1, 1) shall look: clockwise on
            the screen from the top left.
    """
    (x0, y0), (x1, y1), (x2, y2), (x3, y3) = (point.unbind(1) for point in exact(corners).unbind(1))
    dx1, dx2, sx = x1 - x2, x3 - x2, x0 - x1 + x2 - x3
    dy1, dy2, sy = y1 - y2, y3 - y2, y0 - y1 + y2 - y3
    area = dx1 * dy2 - dx2 * dy1
    g, h = (sx * dy2 - dx2 * sy) / area, (dx1 * sy - sx * dy1) / area
    rows = [
        x1 - x0 + g * x1,
        x3 - x0 + h * x3,
        x0,
        y1 - y0 + g * y1,
        y3 - y0 + h * y3,
        y0,
        g,
        h,
        torch.ones_like(g),
    ]
    unit = torch.stack(rows, dim=1).unflatten(1, (3, 3))  # from the square [0, 1] x [0, 1]
    halves = unit.new_tensor([[0.5, 0, 0.5], [0, 0.5, 0.5], [0, 0, 1]])
    return _theta((unit[:, :, :, None] * halves[None, None]).sum(2))


def _matrix(theta: Float[Tensor, "batch 8"]) -> Float[Tensor, "batch 3 3"]:
    theta = exact(theta)
    return torch.cat([theta, theta.new_ones(theta.shape[0], 1)], dim=1).unflatten(1, (3, 3))


def _theta(matrix: Float[Tensor, "batch 3 3"]) -> Float[Tensor, "batch 8"]:
    """Scale the last entry to 1; where it is nearly 0 (the centre looks at the horizon) the result
    is large but finite.
    """
    flat = matrix.flatten(1)
    last = flat[:, 8:]
    floor = HORIZON * flat.detach().abs().amax(1, keepdim=True)
    return flat[:, :8] / torch.where(last.abs() < floor, torch.where(last < 0, -floor, floor), last)


def _adjugate(matrix: Float[Tensor, "batch 3 3"]) -> Float[Tensor, "batch 3 3"]:
    r0, r1, r2 = matrix.unbind(1)
    cross = torch.linalg.cross
    return torch.stack([cross(r1, r2), cross(r2, r0), cross(r0, r1)], dim=2)

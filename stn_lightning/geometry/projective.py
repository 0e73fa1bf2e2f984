"""Projective maps of the plane (homographies), 8 parameters.

Convention:
    theta = (h1 ... h8), the rows of a 3x3 matrix whose last entry is 1. The output point (x, y)
    samples the input point (h1 x + h2 y + h3, h4 x + h5 y + h6) / w with w = h7 x + h8 y + 1. A
    point with w <= 0 is beyond the horizon. w is clamped to `HORIZON` or more, so that such points
    are far away, but finite, and so is their gradient.

Reference:
    Jaderberg et al. 2015, section 3.2 (plane projective, 8 parameters); Heckbert 1989,
    "Fundamentals of Texture Mapping and Image Warping", section 2.2.3 (a square onto a
    quadrilateral).
"""

import torch
from jaxtyping import Float
from torch import Tensor

from stn_lightning.geometry.lattice import axis, upcast
from stn_lightning.geometry.matrices import adjugate, multiply
from stn_lightning.shapes import Grids

Theta = Float[Tensor, "batch 8"]
"""(h1, ..., h8)."""

HORIZON = 2.0**-10


def grid(theta: Theta, size: tuple[int, int]) -> Grids:
    """Return the sampling grid for an output size.

    The grid is finite if theta is.
    """
    theta = upcast(theta)[:, :, None, None]
    # (h1, h4), (h2, h5) and (h3, h6), each (B, 2, 1, 1)
    x_column, y_column, shift = theta[:, :6].unflatten(1, (2, 3)).unbind(2)
    h7, h8 = theta[:, 6:].split(1, dim=1)  # each (B, 1, 1, 1)
    x, y = axis(size[1], theta), axis(size[0], theta)[:, None]
    w = (h7 * x + (h8 * y + 1)).clamp(min=HORIZON)  # (B, 1, H, W)
    return ((x_column * x + (y_column * y + shift)) / w).movedim(1, -1)  # (B, H, W, 2)


def compose(first: Theta, then: Theta) -> Theta:
    """Compose two warps, `first` before `then`.

    Convention:
        theta maps output to input, so the composed map is first(then(point)).
    """
    return _from_matrix(multiply(_to_matrix(first), _to_matrix(then)))


def inverse(theta: Theta) -> Theta:
    """Invert the map.

    The adjugate is the inverse times a factor, and a factor does not change a homography.
    """
    return _from_matrix(adjugate(_to_matrix(theta)))


def from_affine(theta: Float[Tensor, "batch 6"]) -> Theta:
    """Convert affine to projective parameters."""
    return torch.cat([upcast(theta), upcast(theta).new_zeros(theta.shape[0], 2)], dim=1)


def from_corners(corners: Float[Tensor, "batch 4 2"]) -> Theta:
    """Return the map of the corners onto four points.

    Args:
        corners: input points for the output's corners (-1, -1), (1, -1), (1, 1) and (-1, 1), that
            is, clockwise from the top left.
    """
    (x0, y0), (x1, y1), (x2, y2), (x3, y3) = (p.unbind(1) for p in upcast(corners).unbind(1))
    dx1, dx2, sx = x1 - x2, x3 - x2, x0 - x1 + x2 - x3
    dy1, dy2, sy = y1 - y2, y3 - y2, y0 - y1 + y2 - y3
    area = dx1 * dy2 - dx2 * dy1
    g, h = (sx * dy2 - dx2 * sy) / area, (dx1 * sy - sx * dy1) / area
    top = [x1 - x0 + g * x1, x3 - x0 + h * x3, x0]
    middle = [y1 - y0 + g * y1, y3 - y0 + h * y3, y0]
    bottom = [g, h, torch.ones_like(g)]
    unit = torch.stack(top + middle + bottom, dim=1).unflatten(1, (3, 3))  # of [0, 1] x [0, 1]
    halves = unit.new_tensor([[[0.5, 0, 0.5], [0, 0.5, 0.5], [0, 0, 1]]])
    return _from_matrix(multiply(unit, halves))


def _to_matrix(theta: Theta) -> Float[Tensor, "batch 3 3"]:
    theta = upcast(theta)
    return torch.cat([theta, theta.new_ones(theta.shape[0], 1)], dim=1).unflatten(1, (3, 3))


def _from_matrix(matrix: Float[Tensor, "batch 3 3"]) -> Theta:
    """Divide by the last entry and drop it.

    If it is nearly 0 (the image's centre is at the horizon) the result is large but finite.
    """
    flat = matrix.flatten(1)
    last = flat[:, 8:]
    floor = HORIZON * flat.detach().abs().amax(1, keepdim=True)
    return flat[:, :8] / torch.where(last.abs() < floor, torch.where(last < 0, -floor, floor), last)

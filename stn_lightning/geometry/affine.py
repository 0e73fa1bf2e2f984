"""Affine maps of the plane: translation, attention, similarity, affine.

All arithmetic is elementwise. Autocast would round a matrix product to bfloat16, and
`torch.set_float32_matmul_precision` to TF32: an error of up to a pixel.

Convention:
    theta = (a, b, t_x, c, d, t_y): the output point (x, y) samples the input point
    (a x + b y + t_x, c x + d y + t_y). Coordinates are normalised, so in an image that is not
    square, theta of a rotation also shears the pixels.

Reference:
    Jaderberg et al. 2015, equations 1 (affine) and 2 (attention).
"""

import torch
from jaxtyping import Float
from torch import Tensor

from stn_lightning.geometry.lattice import axis, upcast
from stn_lightning.shapes import Grids

Theta = Float[Tensor, "batch 6"]
"""(a, b, t_x, c, d, t_y)."""


def grid(theta: Theta, size: tuple[int, int]) -> Grids:
    """Return the sampling grid for an output size."""
    theta = upcast(theta)
    return _apply(theta, axis(size[1], theta), axis(size[0], theta)[:, None])


def map_points(theta: Theta, points: Float[Tensor, "one_or_batch height width 2"]) -> Grids:
    """Map any points of the output to the input."""
    x, y = upcast(points)[:, None].unbind(-1)
    return _apply(upcast(theta), x, y)


def _apply(theta: Theta, x: Float[Tensor, "..."], y: Float[Tensor, "..."]) -> Grids:
    # (a, c), (b, d) and (t_x, t_y), each (B, 2, 1, 1)
    x_column, y_column, shift = theta.unflatten(1, (2, 3))[..., None, None].unbind(2)
    return (x_column * x + (y_column * y + shift)).movedim(1, -1)  # (B, H, W, 2)


def compose(first: Theta, then: Theta) -> Theta:
    """Compose two warps, `first` before `then`.

    Convention:
        theta maps output to input, so the composed map is first(then(point)).
    """
    a, b, t_x, c, d, t_y = upcast(first).unbind(1)
    e, f, u_x, g, h, u_y = upcast(then).unbind(1)
    top = [a * e + b * g, a * f + b * h, a * u_x + b * u_y + t_x]
    bottom = [c * e + d * g, c * f + d * h, c * u_x + d * u_y + t_y]
    return torch.stack(top + bottom, dim=1)


def inverse(theta: Theta) -> Theta:
    """Invert the map.

    The result is not finite if theta is singular, that is, if its crop has no area.
    """
    a, b, t_x, c, d, t_y = upcast(theta).unbind(1)
    determinant = a * d - b * c
    top = torch.stack([d, -b, b * t_y - d * t_x], dim=1)
    bottom = torch.stack([-c, a, c * t_x - a * t_y], dim=1)
    return torch.cat([top, bottom], dim=1) / determinant[:, None]


def from_translation(theta: Float[Tensor, "batch 2"], scale: float) -> Theta:
    """Convert (t_x, t_y) to affine parameters.

    Args:
        theta: centre of the crop.
        scale: side of the crop / side of the image.
    """
    t_x, t_y = upcast(theta).unbind(1)
    zero, s = torch.zeros_like(t_x), torch.full_like(t_x, scale)
    return torch.stack([s, zero, t_x, zero, s, t_y], dim=1)


def from_attention(theta: Float[Tensor, "batch 3"]) -> Theta:
    """Convert (s, t_x, t_y) to affine parameters."""
    s, t_x, t_y = upcast(theta).unbind(1)
    zero = torch.zeros_like(s)
    return torch.stack([s, zero, t_x, zero, s, t_y], dim=1)


def to_attention(theta: Theta) -> Float[Tensor, "batch 3"]:
    """Return (s, t_x, t_y), ignoring the other parameters."""
    return theta[:, [0, 2, 5]]


def from_similarity(theta: Float[Tensor, "batch 4"]) -> Theta:
    """Convert (s cos, s sin, t_x, t_y) to affine parameters."""
    a, c, t_x, t_y = upcast(theta).unbind(1)
    return torch.stack([a, -c, t_x, c, a, t_y], dim=1)


def to_similarity(theta: Theta) -> Float[Tensor, "batch 4"]:
    """Return (s cos, s sin, t_x, t_y), ignoring the others."""
    return theta[:, [0, 3, 2, 5]]

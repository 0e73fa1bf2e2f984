"""Affine maps of the plane and the smaller families inside them: translation, attention,
similarity.

All of it is elementwise arithmetic: a matrix product would be rounded to bf16 by autocast and to
TF32 by `torch.set_float32_matmul_precision`, which costs up to a pixel.

Convention:
    theta = (a, b, t_x, c, d, t_y): the input point is (a x + b y + t_x, c x + d y + t_y) for the
    output point (x, y).
    In normalised coordinates a similarity is one of pixels only where the image is as high as it is
    wide.

Reference:
    Jaderberg et al. 2015, equations 1 (affine) and 2 (attention).
"""

import torch
from jaxtyping import Float
from torch import Tensor

from stn_lightning.geometry.lattice import axis, exact


def grid(
    theta: Float[Tensor, "batch 6"], size: tuple[int, int]
) -> Float[Tensor, "batch height width 2"]:
    """Where in the input each of `size`'s output pixels looks."""
    theta = exact(theta)
    return _mapped(theta, axis(size[1], theta), axis(size[0], theta)[:, None])


def map_points(
    theta: Float[Tensor, "batch 6"], points: Float[Tensor, "one_or_batch height width 2"]
) -> Float[Tensor, "batch height width 2"]:
    """Where in the input each of these points looks, which need not be the centres of pixels."""
    x, y = exact(points)[:, None].unbind(-1)
    return _mapped(exact(theta), x, y)


def _mapped(
    theta: Float[Tensor, "batch 6"], x: Float[Tensor, "..."], y: Float[Tensor, "..."]
) -> Float[Tensor, "batch height width 2"]:
    of_x, of_y, shift = theta.unflatten(1, (2, 3))[..., None, None].unbind(
        2
    )  # (a, c), (b, d), (t_x, t_y); each (B, 2, 1, 1)
    return (of_x * x + (of_y * y + shift)).movedim(1, -1)  # (B, H, W, 2)


def compose(
    first: Float[Tensor, "batch 6"], then: Float[Tensor, "batch 6"]
) -> Float[Tensor, "batch 6"]:
    """The one warp that does what warping with `first` and then warping the result with `then`
    does.

    Convention:
        theta maps output to input, so the composed map is first(then(point)).
    """
    a, b, t_x, c, d, t_y = exact(first).unbind(1)
    e, f, u_x, g, h, u_y = exact(then).unbind(1)
    top = [a * e + b * g, a * f + b * h, a * u_x + b * u_y + t_x]
    bottom = [c * e + d * g, c * f + d * h, c * u_x + d * u_y + t_y]
    return torch.stack(top + bottom, dim=1)


def inverse(theta: Float[Tensor, "batch 6"]) -> Float[Tensor, "batch 6"]:
    """The map back, from input to output. Not finite where theta is singular (its crop has no
    area).
    """
    a, b, t_x, c, d, t_y = exact(theta).unbind(1)
    determinant = a * d - b * c
    top = torch.stack([d, -b, b * t_y - d * t_x], dim=1)
    bottom = torch.stack([-c, a, c * t_x - a * t_y], dim=1)
    return torch.cat([top, bottom], dim=1) / determinant[:, None]


def from_translation(theta: Float[Tensor, "batch 2"], scale: float) -> Float[Tensor, "batch 6"]:
    """(t_x, t_y) with a fixed `scale` as an affine map; `scale` 0.5 looks at a crop of half the
    image's side.
    """
    t_x, t_y = exact(theta).unbind(1)
    zero, one = torch.zeros_like(t_x), torch.full_like(t_x, scale)
    return torch.stack([one, zero, t_x, zero, one, t_y], dim=1)


def from_attention(theta: Float[Tensor, "batch 3"]) -> Float[Tensor, "batch 6"]:
    """(s, t_x, t_y), a crop of size s around (t_x, t_y), as an affine map."""
    s, t_x, t_y = exact(theta).unbind(1)
    zero = torch.zeros_like(s)
    return torch.stack([s, zero, t_x, zero, s, t_y], dim=1)


def to_attention(theta: Float[Tensor, "batch 6"]) -> Float[Tensor, "batch 3"]:
    """The inverse of `from_attention`; what an affine map has beyond attention is dropped."""
    return theta[:, [0, 2, 5]]


def from_similarity(theta: Float[Tensor, "batch 4"]) -> Float[Tensor, "batch 6"]:
    """(a, c, t_x, t_y) as an affine map: a = s cos, c = s sin of a turn by an angle and a scale by
    s.
    """
    a, c, t_x, t_y = exact(theta).unbind(1)
    return torch.stack([a, -c, t_x, c, a, t_y], dim=1)


def to_similarity(theta: Float[Tensor, "batch 6"]) -> Float[Tensor, "batch 4"]:
    """The inverse of `from_similarity`; what an affine map has beyond a similarity is dropped."""
    return theta[:, [0, 3, 2, 5]]

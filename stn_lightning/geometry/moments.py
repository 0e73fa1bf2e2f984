"""Where an image's ink lies: its middle, its extent and its shape to second order.

Reference:
    Hu 1962, "Visual pattern recognition by moment invariants".
"""

from itertools import combinations_with_replacement

import torch
from jaxtyping import Float
from torch import Tensor

from stn_lightning.geometry.lattice import axis, exact

_TINY = 1e-6
"""Ink and variance that count as none."""


def moments(image: Float[Tensor, "batch channels *size"]) -> Float[Tensor, "batch numbers"]:
    """Middle, extent and shape of each channel's ink, 6 numbers for an image's, 10 for a volume's;
    negative values count as 0.

    The mean place (x, y, z); the square root of the sum of the variances; variances and covariances
    over that sum (xx, xy, yy, or xx, xy, xz, yy, yz, zz). A channel without ink has its middle in
    the middle and no extent to speak of.

    Convention:
        Places are half-pixel, -1 to 1 across the image.
    """
    ink = exact(image).clamp(min=0).flatten(0, 1)  # (B C, *size)
    sides = range(1, ink.dim())
    ink = ink / ink.sum(tuple(sides), keepdim=True).clamp(min=_TINY)
    at, mean = {}, {}
    for side in sides:
        places = axis(ink.shape[side], ink)
        mean[side] = (_marginal(ink, side) * places).sum(1)
        at[side] = places - mean[side][:, None]
    second = {}
    for a, b in combinations_with_replacement(
        reversed(sides), 2
    ):  # x before y before z, the last side before the first
        weight = at[a] ** 2 if a == b else at[b][:, :, None] * at[a][:, None]
        second[a, b] = (_marginal(ink, a, b) * weight).flatten(1).sum(1)
    total = torch.stack([second[side, side] for side in sides], 1).sum(1).clamp(min=_TINY)
    numbers = [
        *(mean[side] for side in reversed(sides)),
        total.sqrt(),
        *(value / total for value in second.values()),
    ]
    return torch.stack(numbers, 1).unflatten(0, image.shape[:2]).flatten(1)


def _marginal(ink: Float[Tensor, "channels *size"], *kept: int) -> Tensor:
    others = [side for side in range(1, ink.dim()) if side not in kept]
    return ink.sum(others) if others else ink

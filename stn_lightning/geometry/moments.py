"""Moments of an image's ink: mean, extent, shape.

Reference:
    Hu 1962, "Visual pattern recognition by moment invariants".
"""

from itertools import combinations_with_replacement

import torch
from jaxtyping import Float
from torch import Tensor

from stn_lightning.geometry.lattice import axis, upcast
from stn_lightning.shapes import ImagesND

_TINY = 1e-6
"""Smallest sum of pixels, and smallest variance, to divide by."""


def moments(image: ImagesND) -> Float[Tensor, "batch numbers"]:
    """Return the moments of each channel's ink.

    Ink is what is brighter than 0.

    Args:
        image: images or volumes; negative values count as 0.

    Returns:
        6 numbers for each channel of an image, 10 for each channel of a volume: the mean point
        (x, y, z); the extent, which is the square root of the sum of the variances along all axes;
        variances and covariances divided by that sum (xx, xy, yy, or xx, xy, xz, yy, yz, zz). Of a
        channel without ink the mean is the centre and the extent nearly 0.

    Convention:
        Points are half-pixel, -1 to 1 across the image.
    """
    ink = upcast(image).clamp(min=0).flatten(0, 1)  # (B C, *size)
    sides = range(1, ink.dim())
    ink = ink / ink.sum(tuple(sides), keepdim=True).clamp(min=_TINY)
    mean, centred = {}, {}
    for side in sides:
        points = axis(ink.shape[side], ink)
        mean[side] = (_marginal(ink, side) * points).sum(1)
        centred[side] = points - mean[side][:, None]
    second = {}
    # x before y before z: the last side before the first
    for a, b in combinations_with_replacement(reversed(sides), 2):
        product = centred[a] ** 2 if a == b else centred[b][:, :, None] * centred[a][:, None]
        second[a, b] = (_marginal(ink, a, b) * product).flatten(1).sum(1)
    total = torch.stack([second[side, side] for side in sides], 1).sum(1).clamp(min=_TINY)
    shape = [value / total for value in second.values()]
    numbers = [*(mean[side] for side in reversed(sides)), total.sqrt(), *shape]
    return torch.stack(numbers, 1).unflatten(0, image.shape[:2]).flatten(1)


def _marginal(ink: Float[Tensor, "channels *size"], *kept: int) -> Tensor:
    summed = [side for side in range(1, ink.dim()) if side not in kept]
    return ink.sum(summed) if summed else ink

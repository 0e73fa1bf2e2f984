"""Compare the poses of crops with the applied poses.

A distortion's theta D maps the distorted image to the original. So its inverse D^-1 gives the pose
of the original within the distorted image: angle, scale and centre. A crop's theta A gives the pose
of the crop. The transformer undoes the distortion if A = D^-1 C with the same C for all images: the
two poses then differ by constants. C need not be the identity (crops may be upside down, say), so
means over the images are subtracted before poses are compared.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from stn_lightning.geometry import affine
from stn_lightning.geometry.lattice import axis, upcast
from stn_lightning.shapes import Grids

_STILL = 1e-6
"""Standard deviation below which a value counts as constant (radians, logarithm or pixels)."""


class Pose(NamedTuple):
    """Angle, scale and centre of affine maps."""

    angle: Float64[Tensor, "batch 1"]
    """radians, of the nearest rotation; if the map mirrors, y is mirrored first"""
    scale: Float64[Tensor, "batch 1"]
    """natural logarithm of the factor of lengths, which is half the logarithm of the determinant"""
    place: Float64[Tensor, "batch 2"]
    """(x, y) of the centre, in pixels of the input, relative to the input's centre"""


class Agreement(NamedTuple):
    """Agreement of crops with the applied angle, scale or place."""

    correlation: float
    """Pearson's correlation; 0 if all crops have the same value, NaN if all distortions have"""
    error: float
    """mean absolute difference after subtracting the means: in degrees, as a factor (1 is none), or
    in pixels
    """


def pose(theta: Float[Tensor, "batch 6"], image_size: Sequence[int]) -> Pose:
    """Split affine maps into angle, scale and place.

    The angle is that of the polar decomposition. So composing the map with a similarity adds the
    similarity's angle and logarithm of scale.

    Args:
        theta: map from output to input.
        image_size: (height, width) of the input; the output counts as equally proportioned.
    """
    height, width = image_size
    a, b, t_x, c, d, t_y = theta.double().unbind(1)
    b, c = b * (width / height), c * (height / width)  # lengths along x and y in one unit
    determinant = a * d - b * c
    mirror = torch.where(determinant < 0, -1.0, 1.0)
    angle = torch.atan2(c - b * mirror, a + d * mirror)
    scale = determinant.abs().clamp(min=1e-12).log() / 2
    place = torch.stack([t_x * (width / 2), t_y * (height / 2)], 1)
    return Pose(angle[:, None], scale[:, None], place)


def applied_pose(theta: Float[Tensor, "batch 6"], image_size: Sequence[int]) -> Pose:
    """Return the poses that a distortion gave its images.

    Args:
        theta: theta of the distortion, which maps the distorted image to the original.
        image_size: (height, width) of the distorted image.
    """
    return pose(affine.inverse(theta.double()), image_size)


def nearest_affine(grid: Grids) -> Float[Tensor, "batch 6"]:
    """Fit affine maps to sampling grids by least squares.

    The fit is exact for affine families.

    Raises:
        ValueError: a grid has fewer than 2 x 2 points, so that it has no slope.
    """
    height, width = grid.shape[1:3]
    if min(height, width) < 2:
        raise ValueError(f"a grid of {height} x {width} points has no slope; give 2 x 2 or more")
    points = upcast(grid)
    x, y = axis(width, points)[:, None], axis(height, points)[:, None, None]
    slopes = [(points * along).mean((1, 2)) / along.square().mean() for along in (x, y)]
    return torch.stack([*slopes, points.mean((1, 2))], 2).flatten(1)


def compare(applied: Pose, crop: Pose) -> dict[str, Agreement]:
    """Measure how well crops follow the applied poses.

    Returns:
        an `Agreement` for each of angle, scale and place; empty if there are no images.
    """
    if not len(applied.angle):
        return {}
    units = {"angle": math.degrees, "scale": math.exp, "place": float}
    result = {}
    for name, unit in units.items():
        x, y = getattr(applied, name), getattr(crop, name)
        centre = _centre_angles if name == "angle" else _centre
        error = float(centre(y - x).norm(dim=1).mean())
        result[name] = Agreement(_correlation(centre(x), centre(y)), unit(error))
    return result


def _centre(values: Float64[Tensor, "batch n"]) -> Float64[Tensor, "batch n"]:
    return values - values.mean(0)


def _centre_angles(angle: Float64[Tensor, "batch 1"]) -> Float64[Tensor, "batch 1"]:
    """Subtract the circular mean; results are -pi to pi."""
    mean = torch.atan2(angle.sin().mean(), angle.cos().mean())
    return torch.remainder(angle - mean + math.pi, 2 * math.pi) - math.pi


def _correlation(x: Float64[Tensor, "batch n"], y: Float64[Tensor, "batch n"]) -> float:
    x, y = _centre(x), _centre(y)
    spread_x, spread_y = (float(values.square().mean().sqrt()) for values in (x, y))
    if spread_x < _STILL:
        return math.nan
    return float((x * y).mean()) / (spread_x * spread_y) if spread_y > _STILL else 0.0

"""Compare the poses of crops with the applied poses.

A distortion's theta D maps the distorted image to the original, so D^-1 says where the original
lies in the distorted image, how large and how turned. A crop's theta A says the same of the crop.
A transformer undoes the distortion where A = D^-1 C with one C for all images, whatever C is: then
angle, scale and centre of the crop are those of the original up to a constant each. So constants
are removed before anything is measured, and a transformer may hold its digits on their side.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from stn_lightning.geometry import affine
from stn_lightning.geometry.lattice import axis, upcast

_STILL = 1e-6
"""Standard deviation (radians, logarithm or pixels) below which a value does not vary."""


class Pose(NamedTuple):
    """Angle, scale and centre of affine maps."""

    angle: Float64[Tensor, "batch 1"]
    """radians; of the nearest rotation, after a mirroring of y where there is one"""
    scale: Float64[Tensor, "batch 1"]
    """natural logarithm; half of the determinant's, so a factor of lengths"""
    place: Float64[Tensor, "batch 2"]
    """(x, y) of the centre, pixels of the input from its middle"""


class Agreement(NamedTuple):
    """Agreement of crops with the applied angle, scale or place."""

    correlation: float
    """Pearson's; 0 where the crops do not vary, NaN where what was applied does not"""
    error: float
    """mean absolute difference, its own mean removed: degrees, factor (1 is none), pixels"""


def pose(theta: Float[Tensor, "batch 6"], image_size: Sequence[int]) -> Pose:
    """Split affine maps into angle, scale and place.

    The angle is that of the polar decomposition: a similarity before or after the map adds its own
    angle and logarithm of scale to the map's.

    Args:
        theta: output -> input.
        image_size: (height, width) of the input; the output is taken to have its aspect.
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
        theta: theta of the distortion, distorted image -> original.
        image_size: (height, width) of the distorted image.
    """
    return pose(affine.inverse(theta.double()), image_size)


def nearest_affine(grid: Float[Tensor, "batch height width 2"]) -> Float[Tensor, "batch 6"]:
    """Fit affine maps to sampling grids, in least squares.

    Exact for affine families; of others it is their angle, scale and place as a whole.

    Raises:
        ValueError: if a grid has fewer than 2 x 2 points, so that it has no slope.
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
        an `Agreement` for each of angle, scale and place; none for no images.
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
    """Subtract the circular mean.

    The result lies within half a turn of 0.
    """
    mean = torch.atan2(angle.sin().mean(), angle.cos().mean())
    return torch.remainder(angle - mean + math.pi, 2 * math.pi) - math.pi


def _correlation(x: Float64[Tensor, "batch n"], y: Float64[Tensor, "batch n"]) -> float:
    x, y = _centre(x), _centre(y)
    spread_x, spread_y = (float(values.square().mean().sqrt()) for values in (x, y))
    if spread_x < _STILL:
        return math.nan
    return float((x * y).mean()) / (spread_x * spread_y) if spread_y > _STILL else 0.0

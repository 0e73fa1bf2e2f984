"""Sampling without aliasing at grids that shrink the image.

The grid maps the square of an output pixel to a parallelogram in the input, the pixel's footprint.
Without aliasing the output pixel is the mean of the (bilinearly interpolated) image over its
footprint. This mean is approximated by a few samples of blurred copies of the image:

- Level 0 is the image. Level 1 is approximately its mean over squares with a side of one pixel.
  Level k > 1 is its exact mean over squares with a side of 2^(k-1) pixels, 2^(k-2) pixels apart:
  twice as dense as in a mip map, so that a single bilinear sample is accurate.
- A sample interpolates between two neighbouring levels, linearly in the squared side, so that its
  variance is the footprint's.
- A footprint that is longer than broad is sampled three times along its longer axis, at the levels
  of its breadth.
- Footprints are measured by differences of the grid, which works for every family. They change
  slowly, so they are measured in the cells of a mesh of at most 8 x 8 and interpolated: measuring
  one for every pixel would take longer than sampling the image.

Convention:
    Half-pixel, as in `lattice`. Where the grid does not shrink the image, the result is that of
    `sampling.bilinear` bit for bit. Between scales of 1 and of the square root of 2 the footprint
    grows from a point to its full size.

Reference:
    Jaderberg et al. 2015, section 3.4, mentions the aliasing and does not solve it. Williams 1983,
    "Pyramidal Parametrics" (mip maps); Heckbert 1989, "Fundamentals of Texture Mapping and Image
    Warping", section 3 (footprints, filters of the same variance).
"""

import contextlib
import math
from collections.abc import Sequence
from functools import partial, reduce

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional

from stn_lightning.geometry import sampling
from stn_lightning.geometry.deterministic import deterministic_sample
from stn_lightning.geometry.footprints import (
    NUM_SAMPLES,
    level_shares,
    measure_footprints,
    outer_samples,
)
from stn_lightning.geometry.lattice import upcast
from stn_lightning.geometry.sampling import Padding
from stn_lightning.shapes import Crops, Grids, Images

_LEVELS = 5
"""Number of levels beside the image itself. Grids that shrink by more than 2^4 alias again."""

_RIM = 3
"""Pixels added around the image, enough to sample level 1 out of bounds."""

Read = tuple[list[Tensor], list[Tensor | float]]
"""Grids to sample at, and the weight of each level in these samples."""


def sample_antialiased(
    image: Images, grid: Grids, padding: Padding = "zeros", num_grids: int = 1
) -> Crops:
    """Average the image over the footprint of each output pixel.

    Args:
        image: image to sample.
        grid: sampling grid.
        padding: value out of bounds.
        num_grids: number of grids that are stacked along the height of `grid`, for parallel
            transformers. Footprints are measured within each.

    Raises:
        ValueError: the image is a volume, or the padding an unknown word.
    """
    sampling.require_images("sample_antialiased", image)
    sampling.check_padding(padding)
    if not isinstance(padding, str):
        on_zeros = partial(sample_antialiased, grid=grid, num_grids=num_grids)
        return sampling.sample_on_colour(image, padding, on_zeros)
    points, size = upcast(grid), (grid.shape[1] // num_grids, grid.shape[2])
    canvas = image.to(torch.promote_types(upcast(image).dtype, points.dtype))
    top = min(_LEVELS, 1 + max(1, int(math.log2(min(image.shape[2:])))))
    footprint = measure_footprints(
        points.unflatten(1, (num_grids, -1)).flatten(0, 1), image.shape[2:], top
    )
    shares = level_shares(footprint.breadth, top)  # (B * num_grids, 1 + top, rows, columns)
    levels = [k for k, used in enumerate(_any_of_each(shares.transpose(0, 1) != 0)) if used]
    stretched = _any_of_each(footprint.stretch[None] > 0) == [True]
    if not any(levels) and not stretched:
        return sampling.bilinear(image, grid, padding)
    weights: list[Tensor | float] = [1.0]
    if len(levels) > 1:
        others = _upsample(shares[:, levels[1:]], size, num_grids)
        # each (B, 1, H, W); exactly 1 and 0 where those of the neighbouring cells are
        weights = [1 - others.sum(1, keepdim=True), *others.split(1, dim=1)]
    reads: list[Read] = [([points], weights)]
    if stretched:
        share, step = outer_samples(footprint, image.shape[2:])
        # not interpolated: an axis has no sign, so neighbouring steps may point in opposite ways
        step = _upsample(step, size, num_grids, "nearest")
        reads = _three_samples(points, step.movedim(1, -1), share, weights, num_grids)
    return sampling.restore_format(_blend(canvas, reads, padding, levels), image)


def _three_samples(
    points: Grids,
    step: Grids,
    share: Float[Tensor, "parts 1 rows columns"],
    weights: list[Tensor | float],
    num_grids: int,
) -> list[Read]:
    """Divide the weights among three samples of each footprint."""
    outer = [points + step, points - step]
    if _any_of_each(share[None] < 1 / NUM_SAMPLES) == [False]:  # a third each
        return [([points, *outer], [weight / NUM_SAMPLES for weight in weights])]
    share = _upsample(share, (points.shape[1] // num_grids, points.shape[2]), num_grids)
    return [
        ([points], [weight * (1 - 2 * share) for weight in weights]),
        (outer, [weight * share for weight in weights]),
    ]


def _upsample(
    cells: Float[Tensor, "parts k rows columns"],
    size: tuple[int, int],
    num_grids: int,
    mode: str = "bilinear",
) -> Float[Tensor, "batch k height width"]:
    """Interpolate values of the mesh's cells to all pixels.

    The results for `num_grids` grids are stacked along the height.
    """
    full = functional.interpolate(cells, size, mode=mode)
    return full.unflatten(0, (-1, num_grids)).transpose(1, 2).flatten(2, 3)


def _any_of_each(condition: Bool[Tensor, "n *shape"]) -> list[bool]:
    """Return whether any element of each may be true.

    The answer is True for all if it is not known: on a GPU, which would have to be waited for, and
    for traced tensors.
    """
    if condition.device.type == "cpu" and not torch.compiler.is_compiling():
        with contextlib.suppress(RuntimeError):  # torch.func.vmap has no values
            answers: list[bool] = condition.flatten(1).any(1).tolist()
            return answers
    return [True] * len(condition)


def _blend(image: Images, reads: list[Read], padding: Padding, levels: list[int]) -> Crops:
    """Return the weighted sum of all samples.

    Args:
        image: image to sample.
        reads: grids, each with a weight for each of `levels`.
        padding: value out of bounds.
        levels: levels to sample, in ascending order.
    """
    cell = 1 << max(0, levels[-1] - 2)
    sides = [n + -n % cell for n in image.shape[2:]]  # whole cells of every level
    pyramid = _pyramid(_canvas(image, sides, padding), padding, levels)
    limit = 2 if padding == "zeros" else 1  # coordinates are clamped to it
    total: Tensor | None = None
    for grids, weights in reads:
        placed = [_to_canvas(grid, image.shape[2:], sides, padding) for grid in grids]
        placed = [points.to(image.dtype) for points in placed]
        for level, weight in zip(levels, weights, strict=True):
            if level == 0 and len(grids) == 1:  # bit for bit where the grid does not shrink
                values = sampling.bilinear(image, grids[0], padding)
            else:
                # pixels by which the level's outermost samples are further apart than the canvas
                rim = 2.0 ** (level - 1) if level > 1 else 2 * (_RIM - level) - 1
                ratios = [side / (side + rim) for side in sides]
                inside = [functional.hardtanh(_scale(p, ratios), -limit, limit) for p in placed]
                sampled = [
                    deterministic_sample(pyramid[level], p, align_corners=True) for p in inside
                ]
                values = reduce(torch.add, sampled)
                weight = weight * (4.0 ** -(level + 2) if level > 1 else 1 / 144 if level else 1.0)
            if total is None:
                total = values * weight
            elif isinstance(weight, float):
                total = total + values * weight
            else:
                total = total.addcmul(values, weight)
    assert total is not None
    return total


def _to_canvas(grid: Grids, size: Sequence[int], sides: list[int], padding: Padding) -> Grids:
    """Convert points of an image to points of its canvas."""
    if padding == "reflection":
        grid = 1 - (torch.remainder(grid + 1, 4) - 2).abs()
    if list(size) == sides:
        return grid
    return _scale(grid + 1, [n / side for n, side in zip(size, sides, strict=True)]) - 1


def _scale(grid: Grids, ratios: list[float]) -> Grids:
    """Multiply y and x by a ratio each.

    Twice as fast if they are equal.
    """
    return grid * (ratios[0] if ratios[0] == ratios[1] else grid.new_tensor(ratios[::-1]))


def _canvas(
    image: Images, sides: list[int], padding: Padding
) -> Float[Tensor, "batch channels *rimmed"]:
    """Pad the image to `sides`, and by a rim."""
    if padding == "zeros":
        down, right = (side - n for side, n in zip(sides, image.shape[2:], strict=True))
        return functional.pad(image, (_RIM, _RIM + right, _RIM, _RIM + down))
    for dim, side in zip((2, 3), sides, strict=True):
        n = image.shape[dim]
        index = torch.arange(-_RIM, side + _RIM, device=image.device)
        mirrored = torch.minimum(index % (2 * n), (-1 - index) % (2 * n))
        index = mirrored if padding == "reflection" else index.clamp(0, n - 1)
        image = image.index_select(dim, index)
    return image


def _pyramid(canvas: Images, padding: Padding, levels: list[int]) -> list[Tensor]:
    """Return all levels up to the last of `levels`.

    Level 0 is the canvas. Entries for levels that are not in `levels` are not to be used. Level 1
    is 144 times a mean, level k > 1 is 4^(k+2) times a mean. The samples of level 1 are at the
    canvas's pixels, without the outermost. From level 2 on samples are at the corners of pixels,
    2^(k-2) pixels apart; the outermost ones are one step beyond the canvas without its rim.
    """
    pyramid = [canvas]
    if levels[-1] > 0:
        pyramid.append(_mean_of_pixel(_mean_of_pixel(canvas, 2), 3) if 1 in levels else canvas)
    # if level 2 itself is not needed, compute only every other sample, for level 3
    step = 1 if 2 in levels else 2
    if levels[-1] > 1:
        level = _mean_of_two_pixels(_mean_of_two_pixels(canvas, 2, step), 3, step)
        pyramid.append(level)
    while len(pyramid) <= levels[-1]:
        cells = level if len(pyramid) == 3 and step == 2 else level[:, :, ::2, ::2]
        mode = "constant" if padding == "zeros" else "replicate"
        cells = functional.pad(cells, (1, 1, 1, 1), mode)
        rows = cells[:, :, 1:] + cells[:, :, :-1]
        level = rows[..., 1:] + rows[..., :-1]
        pyramid.append(level)
    return pyramid


def _mean_of_two_pixels(
    image: Images, dim: int, step: int
) -> Float[Tensor, "batch channels lower narrower"]:
    """Average over two pixels, times 16: 1 7 7 1.

    This is the exact mean of the bilinearly interpolated image.
    """
    n = image.shape[dim] - 3
    a, b, c, d = (image[(slice(None),) * dim + (slice(i, i + n, step),)] for i in range(4))
    return (a + d).add_(b + c, alpha=7)


def _mean_of_pixel(image: Images, dim: int) -> Float[Tensor, "batch channels lower narrower"]:
    """Average over about a pixel, times 12: 1 10 1.

    The exact mean of the bilinearly interpolated image has the weights 1/8, 6/8, 1/8. But sampling
    between two such means blurs once more. 1/24, 22/24, 1/24 compensate for that on average, and
    are wrong at the pixels themselves. The error is smallest halfway between the two.
    """
    n = image.shape[dim] - 2
    a, b, c = (image.narrow(dim, i, n) for i in range(3))
    return (a + c).add_(b, alpha=10)

"""Reading an image at a grid that shrinks it: the mean over what each output pixel covers, instead
of four pixels somewhere in it.

An output pixel is a square. The grid maps it onto a parallelogram of the input, its footprint, and
the mean of the bilinear image over the footprint is what the pixel should be. Here that mean is put
together from a few reads of blurred copies of the image:

- Level 0 is the image, level 1 about its mean over squares of a pixel. Level k > 1 is its mean over
  squares of 2^(k-1) pixels, 2^(k-2) apart: twice as dense as a mip map, which is what makes a
  single bilinear read of it accurate. At its own samples it is the exact integral of the bilinear
  image.
- A read blends two neighbouring levels, linearly in the square of the side, so that it has the
  footprint's variance.
- A footprint that is longer than broad is read three times along its longer axis, at levels of its
  breadth.
- Its shape comes from differences of the grid itself, so it is right for every family. They are
  taken over the cells of a mesh of at most 8 x 8 and interpolated between them: footprints change
  slowly, and measuring one at every pixel costs more than reading the image.

Convention:
    Half-pixel, as in `lattice`. Where nothing shrinks the result is `sampling.bilinear`'s bit for
    bit; between a scale of 1 and of the root of 2 the footprint grows from nothing to its full
    size.

Reference:
    Jaderberg et al. 2015, section 3.4, names the aliasing and leaves it open. Williams 1983,
    "Pyramidal Parametrics" (mip maps); Heckbert 1989, "Fundamentals of Texture Mapping and Image
    Warping", section 3 (footprints, filters that match their variance).
"""

import contextlib
import math
from collections.abc import Sequence
from functools import reduce
from itertools import pairwise
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional

from stn_lightning.geometry import sampling
from stn_lightning.geometry.deterministic import deterministic_sample
from stn_lightning.geometry.lattice import upcast
from stn_lightning.geometry.sampling import Padding

_CELLS = 8
_LEVELS = 5
"""Beyond the image itself; shrinking by more than 2^4 aliases again."""

_PLATEAU = 0.1
"""A footprint this near to a level's own, as a part of the way to the next one, is read from that
level alone.
"""

_SHRINKING = 1 + 2.0**-10
"""Squared scale from which on a pixel shrinks; the margin is for rounding."""

_ROUND = 1.4
"""A footprint counts as round, and is read once, up to this ratio of its squared sides."""

_TAPS = 3
"""How often a long footprint is read."""

_BREADTH = (0.75 / _TAPS) ** 2
"""Reads of a `_TAPS`th of a long footprint would cover it evenly; narrower ones let through a
little aliasing and blur less across.
"""

_RIM = 3
"""Pixels around the image, so many that level 1 has a sample outside of it."""

_FAR = 2.0**10
"""Beyond this the grid may do what it likes: no footprint is told from a larger one."""


class _Footprint(NamedTuple):
    """Of each cell of the mesh, (batch, rows, columns); lengths are squared and in pixels of the
    input.
    """

    breadth: Tensor
    """Side of the square that each read averages."""
    stretch: Tensor
    """What the longer side has beyond that; 0 where the footprint is round."""
    angle: Tensor
    """Of the longer side with the x axis."""


def sample_antialiased(
    image: Float[Tensor, "batch channels h_in w_in"],
    grid: Float[Tensor, "batch height width 2"],
    padding: Padding = "zeros",
    num_grids: int = 1,
) -> Float[Tensor, "batch channels height width"]:
    """Each output pixel is the mean of the image over the pixel's footprint.

    Args:
        num_grids: how many grids stand below each other in `grid` (parallel transformers); no footprint
            reaches across their seams.
    """
    if not isinstance(padding, str):
        return _on_colour(image, grid, padding, num_grids)
    canvas = image.to(torch.promote_types(upcast(image).dtype, upcast(grid).dtype))
    where, size = upcast(grid), (grid.shape[1] // num_grids, grid.shape[2])
    top = min(_LEVELS, 1 + max(1, int(math.log2(min(image.shape[2:])))))
    footprint = _footprint(where.unflatten(1, (num_grids, -1)).flatten(0, 1), image.shape[2:], top)
    shares = _shares(footprint.breadth, top)  # (B * looks, 1 + top, rows, columns)
    kept = [level for level, used in enumerate(_anywhere(shares.transpose(0, 1) != 0)) if used]
    slanted = _anywhere(footprint.stretch[None] > 0) == [True]
    if kept == [0] and not slanted:
        return sampling.bilinear(image, grid, padding)
    weights: list[Tensor | float] = [1.0]
    if len(kept) > 1:
        others = _full(shares[:, kept[1:]], size, num_grids)
        weights = [
            1 - others.sum(1, keepdim=True),
            *others.split(1, dim=1),
        ]  # (B, 1, H, W); all 1 and 0 where those of the cells are
    reads = [([where], weights)]
    if slanted:
        share, step = _taps(footprint, image.shape[2:])
        step = _full(step, size, num_grids, "nearest").movedim(1, -1)  # + and - do not mix
        outer = [where + step, where - step]
        if _anywhere(share[None] < 1 / _TAPS) == [False]:
            reads = [([where, *outer], [weight / _TAPS for weight in weights])]
        else:
            share = _full(share, size, num_grids)
            reads = [
                ([where], [weight * (1 - 2 * share) for weight in weights]),
                (outer, [weight * share for weight in weights]),
            ]
    return sampling.restore_format(_blend(canvas, reads, padding, kept), image)


def _on_colour(
    image: Float[Tensor, "batch channels h_in w_in"],
    grid: Float[Tensor, "batch height width 2"],
    colour: Sequence[float],
    looks: int,
) -> Float[Tensor, "batch channels height width"]:
    """Zeros outside, plus the colour in the measure in which a footprint lies outside."""
    values = upcast(image)
    addend = sampling.padding_colour(values, colour)
    both = sample_antialiased(
        torch.cat([values, torch.ones_like(values[:, :1])], dim=1), grid, "zeros", looks
    )
    return sampling.restore_format(both[:, :-1] + (1 - both[:, -1:]) * addend, image)


def _footprint(
    grid: Float[Tensor, "batch height width 2"], size: Sequence[int], top: int
) -> _Footprint:
    """What an output pixel covers of an image of `size`, in each cell of the mesh."""
    rows, columns = (_mesh(n, grid) for n in grid.shape[1:3])
    knots = grid.index_select(1, rows).index_select(2, columns).clamp(-_FAR, _FAR)
    right = (knots[:, :, 1:] - knots[:, :, :-1]) / columns.diff().clamp(min=1)[:, None]
    down = (knots[:, 1:] - knots[:, :-1]) / rows.diff().clamp(min=1)[:, None, None]
    sides = (
        (right[:, 1:] + right[:, :-1]) / 2,
        (down[:, :, 1:] + down[:, :, :-1]) / 2,
    )  # J's columns
    pixel, limit = (
        grid.new_tensor([size[1] / 2, size[0] / 2]),
        2.0 ** (top + 2),
    )  # larger than any level, small enough to square
    (ax, ay), (bx, by) = ((side * pixel).clamp(-limit, limit).unbind(-1) for side in sides)
    x, y, cross = (
        ax * ax + bx * bx,
        ay * ay + by * by,
        ax * ay + bx * by,
    )  # J J^T, whose eigenvalues are the squared sides
    middle, half = (x + y) / 2, (x - y) / 2
    bent = half * half + cross * cross
    even = bent == 0
    apart = torch.where(
        even, 0, torch.where(even, 1, bent).sqrt()
    )  # the gradient of sqrt at 0 is not finite
    grown = (middle + apart - _SHRINKING).clamp(0, 1)
    longer, shorter = (middle + apart) * grown, (middle - apart) * grown
    least = torch.maximum(shorter, longer * _BREADTH)
    stretch = functional.relu(longer - _ROUND * least)
    breadth = torch.maximum(
        (longer + shorter - stretch) / 2, least
    )  # the mean of both sides where nothing is stretched
    return _Footprint(breadth, stretch, torch.atan2(cross, torch.where(even, 1, half)) / 2)


def _mesh(n: int, like: Float[Tensor, "*shape"]) -> Int[Tensor, " knots"]:
    """Where the mesh's lines lie along an axis of `n` pixels, from the first to the last."""
    cells = max(1, min(_CELLS, n - 1))
    return (torch.arange(cells + 1, device=like.device) * (n - 1) + cells // 2) // cells


def _shares(
    breadth: Float[Tensor, "batch rows columns"], top: int
) -> Float[Tensor, "batch levels rows columns"]:
    """How much of each level a read takes; they sum to 1."""
    ramps = [(0.0, 1.0 - _PLATEAU)] + [
        (4.0**k * (1 + 3 * _PLATEAU), 4.0 ** (k + 1) * (1 - 0.75 * _PLATEAU))
        for k in range(top - 1)
    ]
    passed = [((breadth - first) / (last - first)).clamp(0, 1) for first, last in ramps]
    reached = [torch.ones_like(breadth), *passed, torch.zeros_like(breadth)]
    return torch.stack([a - b for a, b in pairwise(reached)], dim=1)


def _taps(
    footprint: _Footprint, size: Sequence[int]
) -> tuple[Float[Tensor, "batch 1 rows columns"], Float[Tensor, "batch 2 rows columns"]]:
    """The share of each outer read of three, growing from 0 to a third as footprints grow long, and
    its distance from the middle one.
    """
    room = (2 * footprint.breadth).clamp(min=1e-6)
    share = (footprint.stretch / room).clamp(max=1) / _TAPS
    distance = (
        torch.maximum(footprint.stretch, room) / 8
    ).sqrt()  # so that the variance, 2 share distance^2, is stretch / 12
    step = [
        distance * footprint.angle.cos() * (2 / size[1]),
        distance * footprint.angle.sin() * (2 / size[0]),
    ]
    return share[:, None], torch.stack(step, dim=1)


def _full(
    cells: Float[Tensor, "parts k rows columns"],
    size: tuple[int, int],
    looks: int,
    mode: str = "bilinear",
) -> Float[Tensor, "batch k height width"]:
    """For every pixel what is known of the mesh's cells; the looks below each other."""
    return (
        functional.interpolate(cells, size, mode=mode)
        .unflatten(0, (-1, looks))
        .transpose(1, 2)
        .flatten(2, 3)
    )


def _anywhere(what: Bool[Tensor, "n *shape"]) -> list[bool]:
    """For each of `n`, whether it is so anywhere; True where asking is dear (a GPU would be waited
    for) or impossible (a traced tensor).
    """
    if what.device.type == "cpu" and not torch.compiler.is_compiling():
        with contextlib.suppress(RuntimeError):  # inside of torch.func.vmap
            found: list[bool] = what.flatten(1).any(1).tolist()
            return found
    return [True] * len(what)


def _blend(
    image: Float[Tensor, "batch channels h_in w_in"],
    reads: list[tuple[list[Tensor], list[Tensor | float]]],
    padding: Padding,
    kept: list[int],
) -> Float[Tensor, "batch channels height width"]:
    """The sum of all reads: grids, with a weight for each of the kept levels."""
    sides = [
        n + -n % (1 << max(0, kept[-1] - 2)) for n in image.shape[2:]
    ]  # whole cells of every level
    levels = _levels(_field(image, sides, padding), padding, kept)
    limit = (
        2 if padding == "zeros" else 1
    )  # beyond the outermost samples, or not; infinity is no number to count with
    total: Tensor | None = None
    for grids, weights in reads:
        places = [_placed(grid, image.shape[2:], sides, padding).to(image.dtype) for grid in grids]
        for level, weight in zip(kept, weights, strict=True):
            if level == 0 and len(grids) == 1:  # bit for bit, where nothing shrinks
                values = sampling.bilinear(image, grids[0], padding)
            else:
                rim = (
                    2.0 ** (level - 1) if level > 1 else 2 * (_RIM - level) - 1
                )  # by which its outermost samples lie further apart
                ratios = [side / (side + rim) for side in sides]
                within = [
                    functional.hardtanh(_scaled(place, ratios), -limit, limit) for place in places
                ]
                values = reduce(
                    torch.add,
                    [deterministic_sample(levels[level], place, corners=True) for place in within],
                )
                weight = weight * (4.0 ** -(level + 2) if level > 1 else 1 / 144 if level else 1.0)
            if total is None:
                total = values * weight
            else:
                total = (
                    total + values * weight
                    if isinstance(weight, float)
                    else total.addcmul(values, weight)
                )
    assert total is not None
    return total


def _placed(
    grid: Float[Tensor, "batch height width 2"],
    size: Sequence[int],
    sides: list[int],
    padding: Padding,
) -> Float[Tensor, "batch height width 2"]:
    """The grid on a field of `sides` at whose start the image lies."""
    if padding == "reflection":
        grid = 1 - (torch.remainder(grid + 1, 4) - 2).abs()
    if list(size) == sides:
        return grid
    return _scaled(grid + 1, [n / side for n, side in zip(size, sides, strict=True)]) - 1


def _scaled(
    grid: Float[Tensor, "batch height width 2"], ratios: list[float]
) -> Float[Tensor, "batch height width 2"]:
    """y and x times a number each; twice as fast where it is the same number."""
    return grid * (ratios[0] if ratios[0] == ratios[1] else grid.new_tensor(ratios[::-1]))


def _field(
    image: Float[Tensor, "batch channels height width"], sides: list[int], padding: Padding
) -> Float[Tensor, "batch channels *rimmed"]:
    """The image at the start of a field of `sides` with a rim around it, where what lies outside of
    the image is filled in.
    """
    if padding == "zeros":
        down, right = (side - n for side, n in zip(sides, image.shape[2:], strict=True))
        return functional.pad(image, (_RIM, _RIM + right, _RIM, _RIM + down))
    for dim, side in zip((2, 3), sides, strict=True):
        n = image.shape[dim]
        index = torch.arange(-_RIM, side + _RIM, device=image.device)
        mirrored = torch.minimum(index % (2 * n), (-1 - index) % (2 * n))
        image = image.index_select(
            dim, mirrored if padding == "reflection" else index.clamp(0, n - 1)
        )
    return image


def _levels(
    field: Float[Tensor, "batch channels height width"], padding: Padding, kept: list[int]
) -> list[Tensor]:
    """Levels 0 (the field itself, with its rim) to the last that is kept; level 1 is 144 times a
    mean, level k > 1 4^(k+2) times.

    Those of level 1 are the field's, without its outermost. From level 2 on samples lie 2^(k-2)
    pixels apart on the corners of pixels, from one outside of the field (without its rim) on each
    side.
    """
    levels = [field]
    if kept[-1] > 0:
        levels.append(
            _around(_around(field, 2), 3) if 1 in kept else field
        )  # what is not kept is not read
    step = (
        1 if 2 in kept else 2
    )  # where level 2 is not wanted, only every other sample is, for level 3
    if kept[-1] > 1:
        level = _spread(_spread(field, 2, step), 3, step)
        levels.append(level)
    while len(levels) <= kept[-1]:
        cells = level if len(levels) == 3 and step == 2 else level[:, :, ::2, ::2]
        cells = functional.pad(
            cells, (1, 1, 1, 1), "constant" if padding == "zeros" else "replicate"
        )
        rows = cells[:, :, 1:] + cells[:, :, :-1]
        level = rows[..., 1:] + rows[..., :-1]
        levels.append(level)
    return levels


def _spread(
    image: Float[Tensor, "batch channels height width"], dim: int, step: int
) -> Float[Tensor, "batch channels lower narrower"]:
    """What the bilinear image holds along `dim` within 2 pixels of the corner between them: they
    weigh 1 7 7 1, in 16ths.
    """
    n = image.shape[dim] - 3
    a, b, c, d = (image[(slice(None),) * dim + (slice(i, i + n, step),)] for i in range(4))
    return (a + d).add_(b + c, alpha=7)


def _around(
    image: Float[Tensor, "batch channels height width"], dim: int
) -> Float[Tensor, "batch channels lower narrower"]:
    """Each pixel and its neighbours along `dim`, which weigh 1 10 1, in 12ths.

    The bilinear image's mean within half a pixel is 1 6 1 in 8ths, but a read between two of these
    blurs them once more; 1 22 1 in 24ths makes up for that on average, and is off at the pixels.
    Halfway the error is smallest.
    """
    n = image.shape[dim] - 2
    a, b, c = (image.narrow(dim, i, n) for i in range(3))
    return (a + c).add_(b, alpha=10)

"""Reading an image at a grid: bilinear, nearest, bicubic, trilinear; four ways to treat what lies
outside.

PyTorch's `grid_sample` does the reading. Around it stands what makes it exact:

- Arithmetic is float32 or better, whatever autocast says; the result has the image's precision and
  memory format.
- Coordinates are rounded to 2^-22 of a canvas whose sides are powers of two, on which every pixel
  centre is representable. A grid that means a pixel's centre then reads exactly that pixel: the
  identity returns the image bit for bit, for every family and size.
- Points far outside are brought to the rim, where they read the same and have the same (zero)
  gradient, so no coordinate overflows.

Convention:
    Half-pixel, as in `lattice`. A grid's last axis is (x, y), or (x, y, z) for a volume.

Reference:
    Jaderberg et al. 2015, section 3.3: equation 3 (any kernel), 4 (nearest), 5 (bilinear), 6 and 7
    (its gradients).
"""

from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from stn_lightning.geometry.deterministic import deterministic_sample
from stn_lightning.geometry.lattice import upcast

Padding = Literal["zeros", "border", "reflection"] | Sequence[float]
"""What lies outside the image: zeros, the nearest border pixel, the image mirrored at its border,
or a colour (a number a channel).
"""

_RIM = 2
"""Pixels beyond the border at which every kernel reads nothing but padding; bicubic reads that many
on each side of a point.
"""


def bilinear(
    image: Float[Tensor, "batch channels h_in w_in"],
    grid: Float[Tensor, "batch height width 2"],
    padding: Padding = "zeros",
) -> Float[Tensor, "batch channels height width"]:
    """Each output pixel is the mean of its four neighbours in the input, weighted by nearness
    (equation 5).
    """
    return _sample(image, grid, "bilinear", padding)


def nearest(
    image: Float[Tensor, "batch channels h_in w_in"],
    grid: Float[Tensor, "batch height width 2"],
    padding: Padding = "zeros",
) -> Float[Tensor, "batch channels height width"]:
    """Each output pixel is its nearest neighbour in the input (equation 4); theta gets no gradient."""
    return _sample(image, grid, "nearest", padding)


def bicubic(
    image: Float[Tensor, "batch channels h_in w_in"],
    grid: Float[Tensor, "batch height width 2"],
    padding: Padding = "zeros",
) -> Float[Tensor, "batch channels height width"]:
    """Each output pixel weighs 16 neighbours by Keys' kernel (A = -0.75); it may overshoot the
    image's range.
    """
    return _sample(image, grid, "bicubic", padding)


def trilinear(
    volume: Float[Tensor, "batch channels d_in h_in w_in"],
    grid: Float[Tensor, "batch depth height width 3"],
    padding: Padding = "zeros",
) -> Float[Tensor, "batch channels depth height width"]:
    """Each output voxel is the mean of its eight neighbours in the input, weighted by nearness."""
    return _sample(volume, grid, "bilinear", padding)


def _sample(
    image: Float[Tensor, "batch channels *in_size"],
    grid: Float[Tensor, "batch *out_size dimensions"],
    kernel: Literal["bilinear", "nearest", "bicubic"],
    padding: Padding,
) -> Float[Tensor, "batch channels *out_size"]:
    if not isinstance(padding, str):
        return _on_colour(image, grid, kernel, padding)
    dtype = torch.promote_types(upcast(image).dtype, upcast(grid).dtype)
    canvas, values = (
        image.to(dtype),
        upcast(grid),
    )  # rounded in the grid's own precision: its errors are wiped out for any image
    size, offset = image.shape[2:], 0
    if (
        kernel == "bicubic" and padding != "zeros"
    ):  # the only kernel that reads pixels outside with a weight
        canvas, offset = _extended(canvas, padding), _RIM
    sides = [1 << (n - 1).bit_length() for n in canvas.shape[2:]]
    canvas = _padded(canvas, sides)
    beyond = (
        _RIM if padding == "zeros" else 1 if kernel == "bicubic" else 0
    )  # how many pixels outside a point may stay
    if len(set(size)) == 1:  # all axes at once
        where = _on_canvas(values, size[0], sides[0], offset, beyond, padding)
    else:
        axes = zip(values.unbind(-1), size[::-1], sides[::-1], strict=True)
        where = torch.stack(
            [_on_canvas(x, n, side, offset, beyond, padding) for x, n, side in axes], 1
        ).movedim(1, -1)
    return restore_format(deterministic_sample(canvas, where.to(dtype), kernel), image)


def restore_format(
    sampled: Float[Tensor, "batch channels *out_size"],
    image: Float[Tensor, "batch channels *in_size"],
) -> Tensor:
    """What was sampled, in the image's precision and memory format; `grid_sample` itself forgets
    the format.
    """
    sampled = sampled.to(image.dtype)
    if (
        image.dim() == 4
        and image.shape[1] > 1
        and (image.stride(1), image.stride(3)) == (1, image.shape[1])
    ):  # as torch.func.vmap can tell
        return (
            sampled.movedim(1, -1).contiguous().movedim(-1, 1)
        )  # channels_last, in words that vmap knows
    return sampled


def padding_colour(
    image: Float[Tensor, "batch channels *in_size"], colour: Sequence[float]
) -> Float[Tensor, "colours *ones"]:
    """A padding colour as a tensor that can be added to the image.

    Raises:
        ValueError: where it has neither one number nor one a channel.
    """
    if len(colour) not in (1, image.shape[1]):
        raise ValueError(
            f"a padding colour of {len(colour)} numbers for an image of {image.shape[1]} channels; give one number a channel"
        )
    return image.new_tensor(list(colour)).reshape(-1, *[1] * (image.dim() - 2))


def _on_colour(
    image: Float[Tensor, "batch channels *in_size"],
    grid: Float[Tensor, "batch *out_size dimensions"],
    kernel: Literal["bilinear", "nearest", "bicubic"],
    colour: Sequence[float],
) -> Float[Tensor, "batch channels *out_size"]:
    """Zeros outside, plus the colour in the measure in which a pixel lies outside."""
    values = upcast(image)
    inside = _sample(torch.ones_like(values[:, :1]), grid, kernel, "zeros")
    mixed = _sample(values, grid, kernel, "zeros") + (1 - inside) * padding_colour(values, colour)
    return mixed.to(image.dtype)


def _on_canvas(
    x: Float[Tensor, "*points"], n: int, side: int, offset: int, beyond: int, padding: Padding
) -> Float[Tensor, "*points"]:
    """Coordinates along an axis of `n` pixels as coordinates of the canvas of `side` on which the
    image starts at `offset`.
    """
    if padding == "reflection":
        mirrored = 1 - (torch.remainder(x + 1, 4) - 2).abs()
        x = torch.where(x.abs() > 1, mirrored, x)
    ratio = n / side
    # The canvas coordinate plus 3 lies in [2, 4), where float32's step is 2^-22: adding 3 rounds to
    # that step, on which all pixel
    # centres lie, and wipes out the rounding errors of x.
    shifted = (x * ratio).add_(ratio + 2 * offset / side + 2)
    first, last = (
        (2 * (offset - beyond) + 1) / side + 2,
        (2 * (offset + n - 1 + beyond) + 1) / side + 2,
    )
    if (
        padding == "zeros"
        # no kernel has a slope at this rim, so whether the rim itself passes a gradient on does not
        # matter
    ):
        return functional.hardtanh(shifted, first, last).sub_(
            3
        )  # clamp's backward takes four passes over memory, this one's one
    return shifted.clamp(first, last).sub_(3)


def _padded(
    image: Float[Tensor, "batch channels *size"], sides: Sequence[int]
) -> Float[Tensor, "batch channels *sides"]:
    """The image at the start of a larger canvas of zeros; itself where it already fills it."""
    missing = [side - n for n, side in zip(image.shape[2:], sides, strict=True)]
    return (
        functional.pad(image, [p for m in reversed(missing) for p in (0, m)])
        if any(missing)
        else image
    )


def _extended(
    image: Float[Tensor, "batch channels *size"], padding: Padding
) -> Float[Tensor, "batch channels *extended"]:
    """The image with a rim of its own border pixels, or of its mirror image."""
    for dim in range(2, image.dim()):
        n = image.shape[dim]
        index = torch.arange(-_RIM, n + _RIM, device=image.device)
        if padding == "reflection":
            index = n - ((index + 0.5).remainder(2 * n) - n).abs()
        image = image.index_select(dim, index.clamp(0, n - 1).long())
    return image

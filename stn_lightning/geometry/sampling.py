"""Sampling an image at a grid, with four kernels.

PyTorch's `grid_sample` does the work. Around it stands what makes it exact:

- Arithmetic is float32 or better, whatever autocast says; the result has the image's precision and
  memory format.
- Coordinates are rounded to 2^-22 of a canvas whose sides are powers of two, on which every pixel
  centre is representable. A grid that means a pixel's centre then reads exactly that pixel: the
  identity returns the image bit for bit, for every family and size.
- Points far out of bounds are moved to the rim, where they read the same and have the same (zero)
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
"""What is read out of bounds: zeros, the nearest border pixel, the image mirrored at its border, or
a colour (one number for each channel).
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
    """Average the four nearest pixels, weighted by nearness (equation 5).

    >>> image = torch.arange(4.0).reshape(1, 1, 2, 2)
    >>> bilinear(image, torch.zeros(1, 1, 1, 2)).item()
    1.5
    """
    return _sample(image, grid, "bilinear", padding)


def nearest(
    image: Float[Tensor, "batch channels h_in w_in"],
    grid: Float[Tensor, "batch height width 2"],
    padding: Padding = "zeros",
) -> Float[Tensor, "batch channels height width"]:
    """Copy the nearest pixel (equation 4).

    The grid gets no gradient.
    """
    return _sample(image, grid, "nearest", padding)


def bicubic(
    image: Float[Tensor, "batch channels h_in w_in"],
    grid: Float[Tensor, "batch height width 2"],
    padding: Padding = "zeros",
) -> Float[Tensor, "batch channels height width"]:
    """Weigh 16 pixels by Keys' kernel (A = -0.75).

    The result may overshoot the image's range.
    """
    return _sample(image, grid, "bicubic", padding)


def trilinear(
    volume: Float[Tensor, "batch channels d_in h_in w_in"],
    grid: Float[Tensor, "batch depth height width 3"],
    padding: Padding = "zeros",
) -> Float[Tensor, "batch channels depth height width"]:
    """Average the eight nearest voxels, weighted by nearness."""
    return _sample(volume, grid, "bilinear", padding)


def _sample(
    image: Float[Tensor, "batch channels *in_size"],
    grid: Float[Tensor, "batch *out_size dimensions"],
    kernel: Literal["bilinear", "nearest", "bicubic"],
    padding: Padding,
) -> Float[Tensor, "batch channels *out_size"]:
    if not isinstance(padding, str):
        return _sample_on_colour(image, grid, kernel, padding)
    grid = upcast(grid)
    dtype = torch.promote_types(upcast(image).dtype, grid.dtype)
    canvas, size, offset = image.to(dtype), image.shape[2:], 0
    if kernel == "bicubic" and padding != "zeros":  # reads pixels out of bounds with a weight
        canvas, offset = _extend(canvas, padding), _RIM
    sides = [1 << (n - 1).bit_length() for n in canvas.shape[2:]]
    canvas = _pad_to(canvas, sides)
    # how many pixels out of bounds a point may stay
    beyond = _RIM if padding == "zeros" else 1 if kernel == "bicubic" else 0
    # rounded in the grid's own precision: that removes its errors whatever the image's
    if len(set(size)) == 1:  # all axes at once
        points = _to_canvas(grid, size[0], sides[0], offset, beyond, padding)
    else:
        axes = zip(grid.unbind(-1), size[::-1], sides[::-1], strict=True)
        moved = [_to_canvas(x, n, side, offset, beyond, padding) for x, n, side in axes]
        points = torch.stack(moved, 1).movedim(1, -1)
    return restore_format(deterministic_sample(canvas, points.to(dtype), kernel), image)


def restore_format(
    sampled: Float[Tensor, "batch channels *out_size"],
    image: Float[Tensor, "batch channels *in_size"],
) -> Tensor:
    """Convert to the image's precision and memory format.

    `grid_sample` itself forgets the format.
    """
    sampled = sampled.to(image.dtype)
    channels = image.shape[1]
    # channels_last, asked and answered in operations that torch.func.vmap knows
    if image.dim() == 4 and channels > 1 and (image.stride(1), image.stride(3)) == (1, channels):
        return sampled.movedim(1, -1).contiguous().movedim(-1, 1)
    return sampled


def padding_colour(
    image: Float[Tensor, "batch channels *in_size"], colour: Sequence[float]
) -> Float[Tensor, "colours *ones"]:
    """Convert a padding colour to a tensor.

    Raises:
        ValueError: the colour has neither one number nor one for each channel.
    """
    if len(colour) not in (1, image.shape[1]):
        raise ValueError(
            f"a padding colour of {len(colour)} numbers for an image of {image.shape[1]} channels; "
            "give one number for each channel"
        )
    return image.new_tensor(list(colour)).reshape(-1, *[1] * (image.dim() - 2))


def _sample_on_colour(
    image: Float[Tensor, "batch channels *in_size"],
    grid: Float[Tensor, "batch *out_size dimensions"],
    kernel: Literal["bilinear", "nearest", "bicubic"],
    colour: Sequence[float],
) -> Float[Tensor, "batch channels *out_size"]:
    """Add the colour where pixels are out of bounds."""
    values = upcast(image)
    inside = _sample(torch.ones_like(values[:, :1]), grid, kernel, "zeros")
    mixed = _sample(values, grid, kernel, "zeros") + (1 - inside) * padding_colour(values, colour)
    return mixed.to(image.dtype)


def _to_canvas(
    x: Float[Tensor, "*points"], n: int, side: int, offset: int, beyond: int, padding: Padding
) -> Float[Tensor, "*points"]:
    """Convert an image's coordinates to its canvas's.

    Args:
        x: coordinates in the image.
        n: pixels of the image.
        side: pixels of the canvas.
        offset: the canvas's pixel at which the image starts.
        beyond: pixels that a point may be out of bounds; others are moved there.
        padding: padding of the sampler.
    """
    if padding == "reflection":
        mirrored = 1 - (torch.remainder(x + 1, 4) - 2).abs()
        x = torch.where(x.abs() > 1, mirrored, x)
    ratio = n / side
    # The canvas coordinate plus 3 lies in [2, 4), where float32's step is 2^-22: adding 3 rounds to
    # that step, on which all pixel centres lie, and removes the rounding errors of x.
    shifted = (x * ratio).add_(ratio + 2 * offset / side + 2)
    first = (2 * (offset - beyond) + 1) / side + 2
    last = (2 * (offset + n - 1 + beyond) + 1) / side + 2
    if padding == "zeros":
        # hardtanh's backward goes through memory once, clamp's four times; whether it is right at
        # the rim itself does not matter, as no kernel has a slope there
        return functional.hardtanh(shifted, first, last).sub_(3)
    return shifted.clamp(first, last).sub_(3)


def _pad_to(
    image: Float[Tensor, "batch channels *size"], sides: Sequence[int]
) -> Float[Tensor, "batch channels *sides"]:
    """Pad the image with zeros to `sides`."""
    missing = [side - n for n, side in zip(image.shape[2:], sides, strict=True)]
    after = [p for m in reversed(missing) for p in (0, m)]
    return functional.pad(image, after) if any(missing) else image


def _extend(
    image: Float[Tensor, "batch channels *size"], padding: Padding
) -> Float[Tensor, "batch channels *extended"]:
    """Add a rim of padding."""
    for dim in range(2, image.dim()):
        n = image.shape[dim]
        index = torch.arange(-_RIM, n + _RIM, device=image.device)
        if padding == "reflection":
            index = n - ((index + 0.5).remainder(2 * n) - n).abs()
        image = image.index_select(dim, index.clamp(0, n - 1).long())
    return image

"""Sampling an image at a grid, with four kernels.

The functions call PyTorch's `grid_sample` and make it exact:

- They compute in float32 or float64, also under autocast. The result has the image's precision and
  memory format.
- The image is padded to a canvas whose sides are powers of two, and coordinates are rounded to
  multiples of 2^-22, which represent every pixel centre of the canvas exactly. So the identity
  returns the image bit for bit, for every family and size.
- Points far out of bounds are moved to just beyond the border. They sample the same value there and
  have the same gradient, zero, but their coordinates cannot overflow.

Convention:
    Half-pixel, as in `lattice`. A grid's last axis is (x, y), or (x, y, z) for a volume.

Reference:
    Jaderberg et al. 2015, section 3.3: equation 3 (any kernel), 4 (nearest), 5 (bilinear), 6 and 7
    (its gradients).
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from stn_lightning.geometry.deterministic import deterministic_sample
from stn_lightning.geometry.lattice import upcast
from stn_lightning.shapes import Crops, CropsND, Grids, GridsND, Images, ImagesND

Padding = Literal["zeros", "border", "reflection"] | Sequence[float]
"""Values out of bounds: zeros, the nearest border pixel, the image mirrored at its border, or a
colour (one number for each channel).
"""

_RIM = 2
"""Distance from the border, in pixels, at which every kernel samples padding alone. The widest
kernel, bicubic, reaches two pixels to each side.
"""


def bilinear(image: Images, grid: Grids, padding: Padding = "zeros") -> Crops:
    """Average the four nearest pixels, weighted by nearness (equation 5).

    >>> image = torch.arange(4.0).reshape(1, 1, 2, 2)
    >>> bilinear(image, torch.zeros(1, 1, 1, 2)).item()
    1.5
    """
    return _sample(image, grid, "bilinear", padding)


def nearest(image: Images, grid: Grids, padding: Padding = "zeros") -> Crops:
    """Copy the nearest pixel (equation 4).

    The grid gets no gradient.
    """
    return _sample(image, grid, "nearest", padding)


def bicubic(image: Images, grid: Grids, padding: Padding = "zeros") -> Crops:
    """Weigh 16 pixels by Keys' kernel (A = -0.75).

    Values of the result may be out of the image's range.
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
    image: ImagesND,
    grid: GridsND,
    kernel: Literal["bilinear", "nearest", "bicubic"],
    padding: Padding,
) -> CropsND:
    check_padding(padding)
    if not isinstance(padding, str):
        return sample_on_colour(
            image, padding, partial(_sample, grid=grid, kernel=kernel, padding="zeros")
        )
    grid = upcast(grid)
    dtype = torch.promote_types(upcast(image).dtype, grid.dtype)
    canvas, size, offset = image.to(dtype), image.shape[2:], 0
    if kernel == "bicubic" and padding != "zeros":  # a point inside may weigh pixels out of bounds
        canvas, offset = _extend(canvas, padding), _RIM
    sides = [1 << (n - 1).bit_length() for n in canvas.shape[2:]]
    canvas = _pad_to(canvas, sides)
    # points further out of bounds than this many pixels are moved
    beyond = _RIM if padding == "zeros" else 1 if kernel == "bicubic" else 0
    # round in the grid's own precision, before a conversion to the image's
    if len(set(size)) == 1:  # all axes at once
        points = _to_canvas(grid, size[0], sides[0], offset, beyond, padding)
    else:
        axes = zip(grid.unbind(-1), size[::-1], sides[::-1], strict=True)
        moved = [_to_canvas(x, n, side, offset, beyond, padding) for x, n, side in axes]
        points = torch.stack(moved, 1).movedim(1, -1)
    return restore_format(deterministic_sample(canvas, points.to(dtype), kernel), image)


def restore_format(sampled: CropsND, image: ImagesND) -> Tensor:
    """Convert to the image's precision and memory format.

    `grid_sample` always returns the default format.
    """
    sampled = sampled.to(image.dtype)
    channels = image.shape[1]
    # by strides and movedim, as torch.func.vmap does not support torch.channels_last
    if image.dim() == 4 and channels > 1 and (image.stride(1), image.stride(3)) == (1, channels):
        return sampled.movedim(1, -1).contiguous().movedim(-1, 1)
    return sampled


def check_padding(padding: str | Sequence[float]) -> None:
    """Raise an error if a padding is an unknown word.

    Raises:
        ValueError: it is; the message names those that are known.
    """
    if isinstance(padding, str) and padding not in ("zeros", "border", "reflection"):
        raise ValueError(
            f'padding "{padding}" is unknown; '
            'take "zeros", "border", "reflection", or a colour as a list of numbers'
        )


def require_images(function: str, image: ImagesND) -> None:
    """Raise an error for volumes.

    Raises:
        ValueError: `image` has not four axes; the message names `function`.
    """
    if image.dim() != 4:
        raise ValueError(
            f"{function} is for images (batch, channels, height, width), not for tensors of "
            f"{image.dim()} axes; take the sampler Trilinear for volumes"
        )


def padding_colour(image: ImagesND, colour: Sequence[float]) -> Float[Tensor, "colours *ones"]:
    """Convert a colour to a tensor that broadcasts over images.

    Raises:
        ValueError: the colour has neither one number nor one for each channel.
    """
    if len(colour) not in (1, image.shape[1]):
        raise ValueError(
            f"a padding colour of {len(colour)} numbers for an image of {image.shape[1]} channels; "
            "give one number for each channel"
        )
    return image.new_tensor(list(colour)).reshape(-1, *[1] * (image.dim() - 2))


def sample_on_colour(
    image: ImagesND, colour: Sequence[float], sample: Callable[[Tensor], Tensor]
) -> CropsND:
    """Sample an image surrounded by a colour.

    Args:
        image: image to sample.
        colour: one number for all channels, or one for each.
        sample: samples an image on zeros.

    Raises:
        ValueError: the colour has another length.
    """
    values = upcast(image)
    addend = padding_colour(values, colour)
    # the last channel becomes the share of each output pixel that is inside the image
    both = sample(torch.cat([values, torch.ones_like(values[:, :1])], dim=1))
    return restore_format(both[:, :-1] + (1 - both[:, -1:]) * addend, image)


def _to_canvas(
    x: Float[Tensor, "*points"], n: int, side: int, offset: int, beyond: int, padding: Padding
) -> Float[Tensor, "*points"]:
    """Convert normalised coordinates of the image to the canvas.

    Args:
        x: coordinates along one axis.
        n: pixels of the image along this axis.
        side: pixels of the canvas.
        offset: first pixel of the image on the canvas.
        beyond: points further out of bounds than this many pixels are moved there.
        padding: values out of bounds.
    """
    if padding == "reflection":
        mirrored = 1 - (torch.remainder(x + 1, 4) - 2).abs()
        x = torch.where(x.abs() > 1, mirrored, x)
    ratio = n / side
    # The canvas coordinate plus 3 lies in [2, 4), where neighbouring float32 numbers are 2^-22
    # apart. So adding 3 rounds x to a multiple of 2^-22, as all pixel centres are.
    shifted = (x * ratio).add_(ratio + 2 * offset / side + 2)
    first = (2 * (offset - beyond) + 1) / side + 2
    last = (2 * (offset + n - 1 + beyond) + 1) / side + 2
    if padding == "zeros":
        # the backward of hardtanh reads memory once, that of clamp four times. They differ at the
        # limits alone, where every kernel has slope 0
        return functional.hardtanh(shifted, first, last).sub_(3)
    return shifted.clamp(first, last).sub_(3)


def _pad_to(image: ImagesND, sides: Sequence[int]) -> Float[Tensor, "batch channels *sides"]:
    """Pad the image with zeros to `sides`."""
    missing = [side - n for n, side in zip(image.shape[2:], sides, strict=True)]
    after = [p for m in reversed(missing) for p in (0, m)]
    return functional.pad(image, after) if any(missing) else image


def _extend(image: ImagesND, padding: Padding) -> Float[Tensor, "batch channels *extended"]:
    """Add a rim of padding."""
    for dim in range(2, image.dim()):
        n = image.shape[dim]
        index = torch.arange(-_RIM, n + _RIM, device=image.device)
        if padding == "reflection":
            index = n - ((index + 0.5).remainder(2 * n) - n).abs()
        image = image.index_select(dim, index.clamp(0, n - 1).long())
    return image

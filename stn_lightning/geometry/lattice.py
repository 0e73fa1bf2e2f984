"""The lattice of pixel centres, and the one convention of this project.

Convention:
    A point is (x, y) - or (x, y, z) in a volume - and a size is (height, width), or (depth, height,
    width).
    [-1, 1] spans the image from BORDER to BORDER ("half-pixel", what PyTorch calls
    align_corners=False): along an axis of n pixels, the centre of pixel i lies at (2 i + 1 - n) /
    n. theta maps OUTPUT points to INPUT points, as in the paper's equation 1, so t_x = +0.5 moves
    the content to the left.

A grid has its points along the last axis, but lies in memory as one plane of x and one of y:
elementwise arithmetic and `grid_sample` go through planes twice as fast as through pairs.

Reference:
    Jaderberg et al. 2015, section 3.2. The paper leaves open whether +-1 is a pixel's centre or the
    border.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor


def exact(values: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """`values` in at least float32: half precision is too coarse for coordinates (up to a pixel's
    error at 448 px).
    """
    return values.float() if values.dtype in (torch.float16, torch.bfloat16) else values


def axis(n: int, like: Float[Tensor, "*shape"]) -> Float[Tensor, " n"]:
    """Centres of the `n` pixels along one axis, on `like`'s device, in `like`'s precision."""
    steps = torch.arange(1 - n, n, 2, device=like.device, dtype=like.dtype)
    return steps / n


def points(size: Sequence[int], like: Float[Tensor, "*shape"]) -> Float[Tensor, "*size dimensions"]:
    """All pixel centres of an image or a volume of `size`, each as (x, y) or (x, y, z).

    This is the grid of the identity: sampling an image of `size` at it returns the image bit for
    bit.

    Convention:
        `size` runs from the slowest axis to the fastest, points the other way round: `points((h,
        w))[i, j]` is (x_j, y_i).
    """
    axes = [axis(n, like) for n in size]
    return torch.stack(torch.meshgrid(*axes, indexing="ij")[::-1]).movedim(0, -1)


def to_pixels(
    where: Float[Tensor, "*batch dimensions"], size: Sequence[int]
) -> Float[Tensor, "*batch dimensions"]:
    """Normalised points as pixel indices of an image of `size`: -1 becomes -0.5, the first pixel's
    centre 0.
    """
    n = where.new_tensor(tuple(size)[::-1])
    return ((where + 1) * n - 1) / 2


def from_pixels(
    where: Float[Tensor, "*batch dimensions"], size: Sequence[int]
) -> Float[Tensor, "*batch dimensions"]:
    """Pixel indices of an image of `size` as normalised points; the inverse of `to_pixels`."""
    n = where.new_tensor(tuple(size)[::-1])
    return (2 * where + 1) / n - 1

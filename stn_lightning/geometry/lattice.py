"""The lattice of pixel centres, and the convention.

Convention:
    A point is (x, y), or (x, y, z) in a volume; a size is (height, width), or (depth, height,
    width). [-1, 1] spans the image from BORDER to BORDER ("half-pixel", PyTorch's
    align_corners=False): along an axis of n pixels the centre of pixel i is (2 i + 1 - n) / n.
    theta maps OUTPUT points to INPUT points, as in the paper's equation 1, so t_x = +0.5 moves the
    content to the left.

The last axis of a grid holds the coordinates (x, y), but in memory all x come before all y:
elementwise arithmetic and `grid_sample` are twice as fast in this order.

Reference:
    Jaderberg et al. 2015, section 3.2. The paper does not say whether +-1 is the centre of the
    outermost pixels or their border.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor


def upcast(values: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Convert half precision to float32.

    In half precision, coordinates of an image of 448 px are wrong by up to a pixel.

    Raises:
        TypeError: the values are not floating-point numbers.
    """
    if not values.is_floating_point():
        raise TypeError(
            f"expected floating-point numbers, got {values.dtype}; convert them first, an image "
            "of bytes for example by image.float() / 255"
        )
    return values.float() if values.dtype in (torch.float16, torch.bfloat16) else values


def axis(n: int, like: Float[Tensor, "*shape"]) -> Float[Tensor, " n"]:
    """Return `n` pixel centres along one axis.

    Args:
        n: number of pixels.
        like: tensor whose device and precision the result has.

    >>> axis(4, torch.empty(0))
    tensor([-0.7500, -0.2500,  0.2500,  0.7500])
    """
    return torch.arange(1 - n, n, 2, device=like.device, dtype=like.dtype) / n


def points(size: Sequence[int], like: Float[Tensor, "*shape"]) -> Float[Tensor, "*size dimensions"]:
    """Return all pixel centres, the grid of the identity.

    Sampling an image of this size at these points returns the image bit for bit.

    Args:
        size: (height, width) or (depth, height, width).
        like: tensor whose device and precision the result has.

    Convention:
        A size begins with the height (or depth), a point with x: `points((h, w))[i, j]` is
        (x_j, y_i).
    """
    axes = [axis(n, like) for n in size]
    return torch.stack(torch.meshgrid(*axes, indexing="ij")[::-1]).movedim(0, -1)


def to_pixels(
    points: Float[Tensor, "*batch dimensions"], size: Sequence[int]
) -> Float[Tensor, "*batch dimensions"]:
    """Convert normalised points to pixel indices.

    >>> to_pixels(torch.tensor([[-1.0, -1.0], [0.0, 0.0]]), (4, 10))
    tensor([[-0.5000, -0.5000],
            [ 4.5000,  1.5000]])
    """
    n = points.new_tensor(tuple(size)[::-1])
    return ((points + 1) * n - 1) / 2


def from_pixels(
    pixels: Float[Tensor, "*batch dimensions"], size: Sequence[int]
) -> Float[Tensor, "*batch dimensions"]:
    """Convert pixel indices to normalised points."""
    n = pixels.new_tensor(tuple(size)[::-1])
    return (2 * pixels + 1) / n - 1

"""A gradient for the grid that sees further than the four pixels that bilinear interpolation reads.

The gradient of a bilinear read is made of the differences between the pixels next to each point: a
crop that shows only background gets none, and one that shows noise follows the noise.
`widen_gradient` adds the gradient of a blurred copy of the image, which says where things are.
The values that are read stay as they are.

In the copy every place of the image is spread along each axis in proportion to 1 / (1 + distance):
steep near an object, and sloping towards it from everywhere. It reaches half an image beyond the
border on each side, so a crop that has left the image is called back.

Convention:
    The result's gradient with respect to the grid is not the slope of its values; numerical
    differentiation will not agree. The gradient with respect to the image is that of what was read.

Reference:
    Jiang et al. 2019, "Linearized Multi-Sampling for Differentiable Image Transformation": the
    slope of a plane fitted to samples scattered around each point. That is the gradient of a
    blurred image, estimated with one read for each sample, where one read is enough here.
"""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from stn_lightning.geometry.deterministic import deterministic_sample
from stn_lightning.geometry.lattice import exact
from stn_lightning.geometry.sampling import Padding, padding_colour

_CELLS = 16
"""Side of the copy, in cells, where it covers the image; a rim of half as many surrounds it."""


def widen_gradient(
    sampled: Float[Tensor, "batch channels height width"],
    image: Float[Tensor, "batch channels h_in w_in"],
    grid: Float[Tensor, "batch height width 2"],
    padding: Padding = "zeros",
) -> Float[Tensor, "batch channels height width"]:
    """`sampled`, bit for bit, with a gradient for `grid` that is its own plus that of the blurred
    `image`.

    Args:
        sampled: what was read of `image` at `grid`, by any kernel.
    """
    if not torch.is_grad_enabled():
        return sampled
    place = (exact(grid) / 2).clamp(
        -1, 1
    )  # the copy reaches from -2 to 2; compiled, hardtanh expects other strides
    seen = deterministic_sample(blur_image(image, padding).to(place.dtype), place)
    return sampled + (seen - seen.detach()).to(sampled.dtype)


def blur_image(
    image: Float[Tensor, "batch channels h_in w_in"], padding: Padding = "zeros"
) -> Float[Tensor, "batch channels 32 32"]:
    """The copy, of the image and as much again around it; without gradient."""
    values = exact(image.detach())
    if not isinstance(padding, str):
        values = values - padding_colour(
            values, padding
        )  # a constant has no gradient, and what lies outside is zero again
    cells, rim = functional.adaptive_avg_pool2d(values, _CELLS), (_CELLS // 2,) * 4
    if padding in ("border", "reflection"):
        cells = functional.pad(cells, rim, "replicate" if padding == "border" else "reflect")
    else:
        cells = functional.pad(cells, rim)
    place = torch.arange(2 * _CELLS, device=image.device)
    spread = 1 / (1 + (place[:, None] - place).abs()).to(cells.dtype)
    spread = spread / spread.sum(1, keepdim=True)
    with torch.autocast(image.device.type, enabled=False):
        return spread @ cells @ spread.T

"""A gradient for the grid that reaches further.

The gradient of a bilinear sample is made of differences between the pixels next to each point: a
crop of plain background gets none, and a crop of noise follows the noise. `widen_gradient` adds the
gradient of a blurred copy of the image, which shows where things are. The values stay as they are.

In the copy each pixel is spread along each axis in proportion to 1 / (1 + distance): steep near an
object, and sloping towards it from everywhere. It reaches half an image beyond the border on each
side, so a crop that has left the image is called back.

Convention:
    The result's gradient with respect to the grid is not the slope of its values; numerical
    differentiation will not agree. The gradient with respect to the image is that of the sampler.

Reference:
    Jiang et al. 2019, "Linearized Multi-Sampling for Differentiable Image Transformation": the
    slope of a plane fitted to samples scattered around each point. That is the gradient of a
    blurred image, estimated with one sample for each point of the plane, where one is enough here.
"""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from stn_lightning.geometry.deterministic import deterministic_sample
from stn_lightning.geometry.lattice import upcast
from stn_lightning.geometry.sampling import Padding, padding_colour

_CELLS = 16
"""Side of the copy, in cells, where it covers the image; a rim of half as many surrounds it."""


def widen_gradient(
    sampled: Float[Tensor, "batch channels height width"],
    image: Float[Tensor, "batch channels h_in w_in"],
    grid: Float[Tensor, "batch height width 2"],
    padding: Padding = "zeros",
) -> Float[Tensor, "batch channels height width"]:
    """Add a blurred image's gradient to the grid's.

    Args:
        sampled: `image` at `grid`, by any kernel.
        image: image that was sampled.
        grid: sampling grid.
        padding: padding of the sampler.

    Returns:
        `sampled`, bit for bit.
    """
    if not torch.is_grad_enabled():
        return sampled
    # the copy reaches from -2 to 2; hardtanh expects other strides when compiled
    points = (upcast(grid) / 2).clamp(-1, 1)
    blurred = deterministic_sample(blur_image(image, padding).to(points.dtype), points)
    return sampled + (blurred - blurred.detach()).to(sampled.dtype)


def blur_image(
    image: Float[Tensor, "batch channels h_in w_in"], padding: Padding = "zeros"
) -> Float[Tensor, "batch channels 32 32"]:
    """Blur the image and its surroundings, without gradient."""
    values = upcast(image.detach())
    if not isinstance(padding, str):
        # a constant has no gradient, and the surroundings are zero again
        values = values - padding_colour(values, padding)
    mode = {"border": "replicate", "reflection": "reflect"}.get(str(padding), "constant")
    cells = functional.adaptive_avg_pool2d(values, _CELLS)
    cells = functional.pad(cells, (_CELLS // 2,) * 4, mode)
    place = torch.arange(2 * _CELLS, device=image.device)
    spread = 1 / (1 + (place[:, None] - place).abs()).to(cells.dtype)
    spread = spread / spread.sum(1, keepdim=True)
    with torch.autocast(image.device.type, enabled=False):
        return spread @ cells @ spread.T

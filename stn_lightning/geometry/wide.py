"""A gradient for the grid that reaches further.

The gradient of a bilinear sample comes from the pixels next to each point. So a crop of uniform
background has no gradient, and in a noisy crop the gradient is noise. `widen_gradient` adds the
gradient of a blurred copy of the image, which points towards objects further away. The sampled
values do not change.

The copy is blurred along each axis with weights proportional to 1 / (1 + distance): it is steep
near an object, and slopes towards the object from everywhere. It also covers half an image beyond
the border on each side, so that a crop out of bounds has a gradient towards the image.

Convention:
    The gradient with respect to the grid is not the derivative of the returned values, so numerical
    differentiation gives another result. The gradient with respect to the image is the sampler's.

Reference:
    Jiang et al. 2019, "Linearized Multi-Sampling for Differentiable Image Transformation". They fit
    a plane to random samples around each point; its slope is an estimate of a blurred image's
    gradient.
"""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from stn_lightning.geometry.deterministic import deterministic_sample
from stn_lightning.geometry.lattice import upcast
from stn_lightning.geometry.sampling import Padding, padding_colour, require_images
from stn_lightning.shapes import Crops, Grids, Images

_CELLS = 16
"""Cells of the copy along each axis of the image; half as many are added beyond each border."""


def widen_gradient(sampled: Crops, image: Images, grid: Grids, padding: Padding = "zeros") -> Crops:
    """Add a blurred image's gradient to the grid's.

    Args:
        sampled: `image` at `grid`, by any kernel.
        image: image that was sampled.
        grid: sampling grid.
        padding: padding of the sampler.

    Returns:
        `sampled`, bit for bit.

    Raises:
        ValueError: the image is a volume.
    """
    require_images("widen_gradient", image)
    if not torch.is_grad_enabled():
        return sampled
    # the copy covers -2 to 2. Not hardtanh, which fails when compiled, as its strides differ
    points = (upcast(grid) / 2).clamp(-1, 1)
    blurred = deterministic_sample(blur_image(image, padding).to(points.dtype), points)
    return sampled + (blurred - blurred.detach()).to(sampled.dtype)


def blur_image(image: Images, padding: Padding = "zeros") -> Float[Tensor, "batch channels 32 32"]:
    """Blur the image and its surroundings, without gradient."""
    values = upcast(image.detach())
    if not isinstance(padding, str):
        # subtracting a constant changes no gradient, and the padding becomes zeros
        values = values - padding_colour(values, padding)
    mode = {"border": "replicate", "reflection": "reflect"}.get(str(padding), "constant")
    cells = functional.adaptive_avg_pool2d(values, _CELLS)
    cells = functional.pad(cells, (_CELLS // 2,) * 4, mode)
    place = torch.arange(2 * _CELLS, device=image.device)
    spread = 1 / (1 + (place[:, None] - place).abs()).to(cells.dtype)
    spread = spread / spread.sum(1, keepdim=True)
    with torch.autocast(image.device.type, enabled=False):
        return spread @ cells @ spread.T

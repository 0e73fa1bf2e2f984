"""The spatial transformer: localisation -> grid -> sampler (Figure 2 of the paper)."""

from abc import abstractmethod
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from stn_lightning import lazy
from stn_lightning.transformers.families import Family, Size
from stn_lightning.transformers.samplers import Bilinear, Sampler
from stn_lightning.transformers.starts import Identity, Start


class Warp(NamedTuple):
    """What a transformer did. A transformer that holds N in parallel has a further axis N after the batch's in all three."""

    image: Tensor
    """(batch, channels, *size)"""
    theta: Tensor
    """(batch, numbers)"""
    grid: Tensor
    """(batch, *size, dimensions)"""


class Transformer(nn.Module):
    """Image to image(s): what a task puts in front of a backbone, or a backbone between its layers."""

    @abstractmethod
    def warp(self, image: Float[Tensor, "batch channels *in_size"]) -> Warp:
        """The warped image(s) with theta and the grid that made them."""

    def forward(self, image: Float[Tensor, "batch channels *in_size"]) -> Float[Tensor, "batch ..."]:
        return self.warp(image).image


class Regression(nn.Module):
    """The last layer of a localisation: features -> theta of as many transformers as there are starts.

    theta = start + linear(features), with weights and bias of zero: the first theta is the start whatever the image shows, and weight decay
    pulls towards the start. It runs outside of autocast: a theta rounded to bf16 is off by up to a pixel.
    """

    start: Tensor

    def __init__(self, start: Float[Tensor, "n numbers"]) -> None:
        super().__init__()
        self.register_buffer("start", start, persistent=False)
        self.linear = lazy.linear(self.start.numel(), zero=True)

    def forward(self, features: Float[Tensor, "batch *features"]) -> Float[Tensor, "batch n numbers"]:
        features = features.flatten(1)
        with torch.autocast(features.device.type, enabled=False):
            moved: Tensor = self.linear(features.to(self.start.dtype))
        return self.start + moved.unflatten(1, self.start.shape)


class SpatialTransformer(Transformer):
    """Looks at an image, decides where the interesting part is, and returns that part.

    Args:
        localisation: image -> features, any shape.
        family: which transformations it may choose from.
        size: of the output image; the input's own size when left out.
        sampler: bilinear with zeros outside, as in the paper, when left out.
        start: the identity, as in the paper, when left out.
    """

    def __init__(
        self,
        localisation: nn.Module,
        family: Family,
        size: Size | None = None,
        sampler: Sampler | None = None,
        start: Start | None = None,
    ) -> None:
        super().__init__()
        self.localisation = localisation
        self.regression = Regression((start or Identity()).theta(family, 1))
        self.family = family
        self.size = size
        self.sampler = sampler or Bilinear()

    def warp(self, image: Float[Tensor, "batch channels *in_size"]) -> Warp:
        theta = self.regression(self.localisation(image)).squeeze(1)
        grid = self.family(theta, self.size or tuple(image.shape[2:]))
        return Warp(self.sampler(image, grid), theta, grid)

"""The spatial transformer: localisation -> grid -> sampler (Figure 2 of the paper)."""

import contextlib
from abc import abstractmethod
from collections.abc import Iterator
from functools import partial
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from stn_lightning import lazy
from stn_lightning.transformers.families import Family, Size
from stn_lightning.transformers.samplers import Bilinear, Sampler
from stn_lightning.transformers.starts import Identity, Start


class WarpOutput(NamedTuple):
    """What a transformer did. A transformer that holds N in parallel has a further axis N after the
    batch's in all three.
    """

    image: Tensor
    """(batch, channels, *size)"""
    theta: Tensor
    """(batch, numbers)"""
    grid: Tensor
    """(batch, *size, dimensions)"""


class WarpRecord(NamedTuple):
    """That a transformer was called, and what it did."""

    transformer: "Transformer"
    image_size: Size
    """Of what it was given."""
    warp: WarpOutput

    @property
    def thetas(self) -> Float[Tensor, "batch n numbers"]:
        """Of one transformer or of `n` in parallel."""
        return self.warp.theta if self.warp.theta.dim() == 3 else self.warp.theta.unsqueeze(1)

    @property
    def grids(self) -> Float[Tensor, "batch n *size dimensions"]:
        """Of one transformer or of `n` in parallel."""
        grid = self.warp.grid
        return grid if grid.dim() == grid.shape[-1] + 3 else grid.unsqueeze(1)


class Transformer(nn.Module):
    """Image to image(s): what a task puts in front of a backbone, or a backbone between its layers."""

    def __init__(self) -> None:
        super().__init__()
        self.recorders: tuple[list[WarpRecord], ...] = ()

    @abstractmethod
    def warp(self, image: Float[Tensor, "batch channels *in_size"]) -> WarpOutput:
        """The warped image(s) with theta and the grid that made them."""

    def forward(
        self, image: Float[Tensor, "batch channels *in_size"]
    ) -> Float[Tensor, "batch ..."]:
        return self._seen(image, self.warp(image))

    def _seen(
        self, image: Float[Tensor, "batch channels *in_size"], warp: WarpOutput
    ) -> Float[Tensor, "batch ..."]:
        """Tells the watchers; returns the warped image."""
        if not torch.compiler.is_compiling():
            for looks in self.recorders:
                looks.append(WarpRecord(self, tuple(image.shape[2:]), warp))
        return warp.image


@contextlib.contextmanager
def record_warps(network: nn.Module) -> Iterator[list[WarpRecord]]:
    """Collects what all transformers in `network` do meanwhile, in the order in which they do it.

    Tensors are kept with their gradients, so a loss can be made of them. Compiled transformers are
    not seen.
    """
    looks: list[WarpRecord] = []
    transformers = [module for module in network.modules() if isinstance(module, Transformer)]
    for transformer in transformers:
        transformer.recorders = (*transformer.recorders, looks)
    try:
        yield looks
    finally:
        for transformer in transformers:
            transformer.recorders = tuple(
                each for each in transformer.recorders if each is not looks
            )


class Regression(nn.Module):
    """The last layer of a localisation: features -> theta of `n` transformers.

    theta = start + linear(features). Weights and bias are zero at first, unless the start says
    otherwise: the first theta is the start whatever the image shows, and weight decay pulls towards
    the start. It runs outside of autocast: a theta rounded to bf16 is off by up to a pixel.

    Args:
        start: where they begin.
        family: of all of them.
        n: how many.
        part: which of the starts are meant, where other regressions have the rest of them; all when
            left out.
    """

    start: Tensor

    def __init__(self, start: Start, family: Family, n: int, part: slice = slice(None)) -> None:
        super().__init__()
        self.register_buffer("start", start.theta(family, n)[part], persistent=False)
        self.linear = lazy.linear(
            self.start.numel(), partial(_start_linear, start, family, len(self.start))
        )
        for parameter in self.linear.parameters():  # `requires_grad_` wants to know their size
            parameter.requires_grad = start.learnt

    def forward(
        self, features: Float[Tensor, "batch *features"]
    ) -> Float[Tensor, "batch n numbers"]:
        features = features.flatten(1)
        with torch.autocast(features.device.type, enabled=False):
            moved: Tensor = self.linear(features.to(self.start.dtype))
        return self.start + moved.unflatten(1, self.start.shape)


def _start_linear(start: Start, family: Family, n: int, layer: nn.Linear) -> None:
    with torch.no_grad():
        layer.weight.copy_(start.weight(family, n, layer.in_features).flatten(0, 1))
        layer.bias.zero_()


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
        self.regression = Regression(start or Identity(), family, 1)
        self.family = family
        self.size = size
        self.sampler = sampler or Bilinear()

    def forward(
        self,
        image: Float[Tensor, "batch channels *in_size"],
        where: Float[Tensor, "batch ..."] | None = None,
    ) -> Float[Tensor, "batch ..."]:
        """The interesting part of the image; the localisation looks for it in `where`, for example
        feature maps, if that is given.
        """
        return self._seen(image, self.warp(image, where))

    def warp(
        self,
        image: Float[Tensor, "batch channels *in_size"],
        where: Float[Tensor, "batch ..."] | None = None,
    ) -> WarpOutput:
        theta = self.regression(self.localisation(image if where is None else where)).squeeze(1)
        grid = self.family(theta, self.size or tuple(image.shape[2:]))
        return WarpOutput(self.sampler(image, grid), theta, grid)

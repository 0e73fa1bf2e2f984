"""The spatial transformer: localisation -> grid -> sampler (Figure 2)."""

import contextlib
import functools
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextvars import ContextVar
from functools import partial
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from stn_lightning import layers
from stn_lightning.shapes import Batched, ImagesND
from stn_lightning.transformers.families import ComposableFamily, Family, Size
from stn_lightning.transformers.samplers import Bilinear, Sampler
from stn_lightning.transformers.starts import Identity, Start


class WarpOutput(NamedTuple):
    """The result of a warp.

    With `n` parallel transformers each tensor has a second axis, of length `n`.
    """

    image: Tensor
    """(batch, channels, *size): the warped image"""
    theta: Tensor
    """(batch, numbers): the theta that was applied, after bounding"""
    grid: Tensor
    """(batch, *size, dimensions): the sampling grid"""


class WarpRecord(NamedTuple):
    """One call of a transformer, recorded by `record_warps`."""

    transformer: "Transformer"
    image_size: Size
    """Size of the input image."""
    output: WarpOutput

    @property
    def thetas(self) -> Float[Tensor, "batch n numbers"]:
        """theta of each of `n` parallel transformers, or of one."""
        return self._with_n(self.output.theta)

    @property
    def grids(self) -> Float[Tensor, "batch n *size dimensions"]:
        """Sampling grid of each of `n` parallel transformers."""
        return self._with_n(self.output.grid)

    @property
    def crops(self) -> Float[Tensor, "batch n channels *size"]:
        """Warped image of each of `n` parallel transformers."""
        return self._with_n(self.output.image)

    def grids_of_size(self, size: Size) -> Float[Tensor, "batch n *size dimensions"]:
        """Return the sampling grids for outputs of another size.

        A warp of small feature maps has a coarse grid; a drawing of the image needs a finer one.
        """
        family: Any = self.transformer.family
        grid: Tensor = family.grid(self.thetas.flatten(0, 1), size)
        return grid.unflatten(0, self.thetas.shape[:2])

    def on_image(self, image: ImagesND) -> "WarpRecord":
        """Apply a warp of feature maps to the image itself."""
        size = tuple(image.shape[2:])
        crop = self.output.grid.shape[-1 - len(size) : -1]
        finer = [n * a // b for n, a, b in zip(crop, size, self.image_size, strict=True)]
        grids = self.grids_of_size(tuple(finer))
        sampled = Bilinear().sample_each(image.to(grids.dtype), grids)
        if self.output.theta.dim() == 2:
            sampled, grids = sampled[:, 0], grids[:, 0]
        return WarpRecord(self.transformer, size, WarpOutput(sampled, self.output.theta, grids))

    def _with_n(self, values: Tensor) -> Tensor:
        return values if self.output.theta.dim() == 3 else values.unsqueeze(1)


class Transformer(nn.Module, ABC):
    """Base class of modules: image -> warped image(s)."""

    family: Family

    @abstractmethod
    def warp(self, image: ImagesND, localisation_input: Batched | None = None) -> WarpOutput:
        """Return the warped image, theta and the sampling grid.

        Args:
            image: images or feature maps.
            localisation_input: input of the localisation, for example feature maps; `image` by
                default.
        """

    def forward(self, image: ImagesND, localisation_input: Batched | None = None) -> Batched:
        """Return the image of `warp`."""
        output = self.warp(image, localisation_input)
        if not torch.compiler.is_compiling():
            for recording in _recordings.get():
                if self in recording.transformers:
                    recording.records.append(WarpRecord(self, tuple(image.shape[2:]), output))
        return output.image


class _Recording(NamedTuple):
    transformers: frozenset[Transformer]
    records: list[WarpRecord]


_recordings: ContextVar[tuple[_Recording, ...]] = ContextVar("recordings", default=())
"""Recordings that have begun and not ended, separately for each thread and asynchronous task."""


@contextlib.contextmanager
def record_warps(network: nn.Module) -> Iterator[list[WarpRecord]]:
    """Record each warp in `network`, in order.

    Calls in the same thread within the `with` block are recorded, so several threads can use one
    network. Tensors are not detached, so a loss can be computed from them. Compiled transformers
    are not recorded.

    Examples:
        >>> network = nn.Sequential(SpatialTransformer(FullyConnectedLocalisation(), Affine()))
        >>> with record_warps(network) as records:
        ...     output = network(torch.rand(5, 1, 28, 28))
        >>> [record.thetas.shape for record in records]
        [torch.Size([5, 1, 6])]
    """
    found = frozenset(module for module in network.modules() if isinstance(module, Transformer))
    recording = _Recording(found, [])
    _recordings.set((*_recordings.get(), recording))
    try:
        yield recording.records
    finally:
        _recordings.set(tuple(other for other in _recordings.get() if other is not recording))


def compose_records(records: Sequence[WarpRecord], image: ImagesND) -> WarpRecord | None:
    """Compose a network's warps into one warp of its input.

    Warps in series are composed. A single warp of feature maps is applied to the image.

    Args:
        records: records of one call of the network.
        image: input of the network.

    Returns:
        None if there are no transformers, or several that cannot be composed: of different
        families, or of one that is not closed under composition.
    """
    if not records:
        return None
    first, size = records[0], tuple(image.shape[2:])
    if len(records) == 1:
        return first if first.image_size == size else first.on_image(image)
    families = [record.transformer.family for record in records]
    family: Any = families[0]
    if not isinstance(family, ComposableFamily) or any(
        type(other) is not type(family) for other in families
    ):
        return None
    theta = functools.reduce(family.compose, [record.output.theta for record in records])
    grid = family(theta, size)
    warped = Bilinear()(image.to(grid.dtype), grid)
    return WarpRecord(first.transformer, size, WarpOutput(warped, theta, grid))


class Regression(nn.Module):
    """Regresses the theta of `n` transformers from features.

    theta = start + linear(features), in float32 under autocast, too: a theta in bfloat16 is wrong
    by up to a pixel. Only a module that was itself converted to bfloat16 computes in it.
    Weights are initialised by `start.weight`, by default with zeros, and the bias with zeros. So
    the first theta is the start for every image, and weight decay pulls towards the start.

    Args:
        start: first theta of each transformer.
        family: family of all transformers.
        n: number of transformers.
        part: transformers whose theta is regressed; all by default.
    """

    start: Tensor

    def __init__(self, start: Start, family: Family, n: int, part: slice = slice(None)) -> None:
        super().__init__()
        self.register_buffer("start", start.theta(family, n)[part], persistent=False)
        initialise = partial(_initialise, start, family, self.start.clone())
        self.linear = layers.linear(self.start.numel(), initialise)
        for parameter in self.linear.parameters():  # `requires_grad_` fails before the first batch
            parameter.requires_grad = start.learnt

    def forward(
        self, features: Float[Tensor, "batch *features"]
    ) -> Float[Tensor, "batch n numbers"]:
        features = features.flatten(1)
        with torch.autocast(features.device.type, enabled=False):
            moved: Tensor = self.linear(features.to(self.start.dtype))
        return self.start + moved.unflatten(1, self.start.shape)


def _initialise(start: Start, family: Family, thetas: Tensor, layer: nn.Linear) -> None:
    with torch.no_grad():
        layer.weight.copy_(start.weight(family, thetas, layer.in_features).flatten(0, 1))
        layer.bias.zero_()


class SpatialTransformer(Transformer):
    """Warps images by a theta regressed from them.

    Args:
        localisation: image -> features, (batch, ...).
        family: family of transformations.
        size: (height, width) of the output image; by default that of the input.
        sampler: bilinear with zeros by default, as in the paper.
        start: first theta; the identity by default, as in the paper.

    >>> transformer = SpatialTransformer(FullyConnectedLocalisation(), Affine(), size=(20, 20))
    >>> transformer(torch.rand(5, 1, 28, 28)).shape
    torch.Size([5, 1, 20, 20])
    >>> warped, theta, grid = transformer.warp(torch.rand(5, 1, 28, 28))
    >>> theta[0]
    tensor([1., 0., 0., 0., 1., 0.], grad_fn=<SelectBackward0>)
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

    def warp(self, image: ImagesND, localisation_input: Batched | None = None) -> WarpOutput:
        features = self.localisation(image if localisation_input is None else localisation_input)
        theta = self.family.bound(self.regression(features).squeeze(1))
        grid = self.family.grid(theta, self.size or tuple(image.shape[2:]))
        return WarpOutput(self.sampler(image, grid), theta, grid)

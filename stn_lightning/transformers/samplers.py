"""Samplers as modules: the third part of a transformer.

Reference:
    Jaderberg et al. 2015, section 3.3.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable

from jaxtyping import Float
from torch import Tensor, nn

from stn_lightning.geometry import antialiasing, sampling, wide
from stn_lightning.geometry.sampling import Padding
from stn_lightning.shapes import Crops, CropsND, Grids, GridsND, Images, ImagesND


class Sampler(nn.Module, ABC):
    """Base class of samplers: image and grid -> sampled image.

    Args:
        padding: values out of bounds: "zeros", "border" (the nearest border pixel), "reflection",
            or a colour as a list with one number for each channel. Give the colour of the
            background after normalisation; otherwise the crop has an edge at the image's border.

    Raises:
        ValueError: `padding` is another word.
    """

    def __init__(self, padding: Padding = "zeros") -> None:
        super().__init__()
        sampling.check_padding(padding)
        self.padding = padding

    @abstractmethod
    def forward(self, image: ImagesND, grid: GridsND) -> CropsND:
        """Sample each image at its grid."""

    def sample_each(
        self, image: ImagesND, grids: Float[Tensor, "batch n *out_size dimensions"]
    ) -> Float[Tensor, "batch n channels *out_size"]:
        """Sample each image at `n` grids in one call.

        The grids are stacked along their height, so that no image has to be copied.
        """
        return _unstack(self(image, grids.flatten(1, 2)), grids.shape[1])


class _KernelSampler(Sampler):
    """Base class of the samplers with a kernel of `geometry.sampling`."""

    sample: Callable[..., Tensor]

    def forward(self, image: ImagesND, grid: GridsND) -> CropsND:
        return self.sample(image, grid, self.padding)


class Bilinear(_KernelSampler):
    """The paper's sampler (equation 5).

    >>> identity = Affine()(torch.tensor([Affine.identity]), (28, 28))
    >>> image = torch.rand(1, 3, 28, 28)
    >>> torch.equal(Bilinear()(image, identity), image)
    True
    """

    sample = staticmethod(sampling.bilinear)


class Nearest(_KernelSampler):
    """Copies the nearest pixel (equation 4).

    theta gets no gradient, so a transformer cannot be trained with it.

    >>> Nearest()(torch.eye(4)[None, None], torch.zeros(1, 1, 1, 2)).item()
    1.0
    """

    sample = staticmethod(sampling.nearest)


class Bicubic(_KernelSampler):
    """Weighs 16 pixels: sharper than bilinear.

    >>> Bicubic("border")(torch.ones(1, 1, 4, 4), torch.zeros(1, 1, 1, 2)).item()
    1.0
    """

    sample = staticmethod(sampling.bicubic)


class Trilinear(_KernelSampler):
    """Bilinear sampling of volumes.

    >>> Trilinear()(torch.rand(5, 1, 8, 8, 8), torch.zeros(5, 2, 3, 4, 3)).shape
    torch.Size([5, 1, 2, 3, 4])
    """

    sample = staticmethod(sampling.trilinear)


class Antialiased(Sampler):
    """Averages over each output pixel where the grid shrinks.

    Elsewhere it is `Bilinear`, bit for bit.

    >>> half = Affine()(torch.tensor([Affine.identity]), (2, 2))
    >>> Antialiased()(torch.eye(4)[None, None], half)[0, 0].round(decimals=1)
    tensor([[0.4000, 0.1000],
            [0.1000, 0.4000]])
    """

    def forward(self, image: Images, grid: Grids) -> Crops:
        return antialiasing.sample_antialiased(image, grid, self.padding)

    def sample_each(
        self, image: Images, grids: Float[Tensor, "batch n height width 2"]
    ) -> Float[Tensor, "batch n channels height width"]:
        n, stacked = grids.shape[1], grids.flatten(1, 2)
        return _unstack(antialiasing.sample_antialiased(image, stacked, self.padding, n), n)


class WideGradient(Sampler):
    """Another sampler with a gradient that reaches further.

    The gradient moves crops towards objects further away, which transformers would not find
    otherwise (`geometry.wide`).

    Args:
        sampler: sampler whose values are returned; bilinear with zeros by default.

    >>> theta = torch.tensor([[0.1, 0.0, 0.0]], requires_grad=True)
    >>> image = torch.zeros(1, 1, 28, 28).index_fill(3, torch.tensor([20]), 1.0)
    >>> WideGradient()(image, Attention()(theta, (8, 8))).sum().backward()
    >>> theta.grad[0, 1] > 0  # to the right, where the crop is empty
    tensor(True)
    """

    def __init__(self, sampler: Sampler | None = None) -> None:
        sampler = sampler or Bilinear()
        super().__init__(sampler.padding)
        self.sampler = sampler

    def forward(self, image: Images, grid: Grids) -> Crops:
        return wide.widen_gradient(self.sampler(image, grid), image, grid, self.padding)

    def sample_each(
        self, image: Images, grids: Float[Tensor, "batch n height width 2"]
    ) -> Float[Tensor, "batch n channels height width"]:
        n, stacked = grids.shape[1], grids.flatten(1, 2)
        sampled = self.sampler.sample_each(image, grids).transpose(1, 2).flatten(2, 3)
        return _unstack(wide.widen_gradient(sampled, image, stacked, self.padding), n)


def _unstack(
    sampled: Float[Tensor, "batch channels rows *rest"], n: int
) -> Float[Tensor, "batch n channels *size"]:
    """Split images along their height into `n` images each."""
    return sampled.unflatten(2, (n, -1)).transpose(1, 2)

"""Samplers: the third part of a transformer, as objects that can be given in a configuration.

Reference:
    Jaderberg et al. 2015, section 3.3.
"""

from abc import abstractmethod

from jaxtyping import Float
from torch import Tensor, nn

from stn_lightning.geometry import sampling
from stn_lightning.geometry.sampling import Padding


class Sampler(nn.Module):
    """Reads an image at a grid.

    Args:
        padding: what lies outside the image: "zeros", "border", "reflection", or a colour as a list with a number a channel. Give the
            value that the background has AFTER normalisation; a black border around a normalised image is an edge to a network.

    Raises:
        ValueError: where `padding` is another word.
    """

    def __init__(self, padding: Padding = "zeros") -> None:
        super().__init__()
        if isinstance(padding, str) and padding not in ("zeros", "border", "reflection"):
            raise ValueError(f'padding "{padding}" is unknown; take "zeros", "border", "reflection", or a colour as a list of numbers')
        self.padding = padding

    @abstractmethod
    def forward(
        self, image: Float[Tensor, "batch channels *in_size"], grid: Float[Tensor, "batch *out_size dimensions"]
    ) -> Float[Tensor, "batch channels *out_size"]: ...


class Bilinear(Sampler):
    """The paper's sampler (equation 5)."""

    def forward(
        self, image: Float[Tensor, "batch channels h_in w_in"], grid: Float[Tensor, "batch height width 2"]
    ) -> Float[Tensor, "batch channels height width"]:
        return sampling.bilinear(image, grid, self.padding)


class Nearest(Sampler):
    """Copies the nearest pixel (equation 4). Gives theta no gradient: for a trained transformer."""

    def forward(
        self, image: Float[Tensor, "batch channels h_in w_in"], grid: Float[Tensor, "batch height width 2"]
    ) -> Float[Tensor, "batch channels height width"]:
        return sampling.nearest(image, grid, self.padding)


class Bicubic(Sampler):
    """Sharper than bilinear, and its gradient sees 16 pixels instead of 4."""

    def forward(
        self, image: Float[Tensor, "batch channels h_in w_in"], grid: Float[Tensor, "batch height width 2"]
    ) -> Float[Tensor, "batch channels height width"]:
        return sampling.bicubic(image, grid, self.padding)


class Trilinear(Sampler):
    """Bilinear for volumes."""

    def forward(
        self, image: Float[Tensor, "batch channels d_in h_in w_in"], grid: Float[Tensor, "batch depth height width 3"]
    ) -> Float[Tensor, "batch channels depth height width"]:
        return sampling.trilinear(image, grid, self.padding)

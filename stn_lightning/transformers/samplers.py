"""Samplers: the third part of a transformer, as objects that can be given in a configuration.

Reference:
    Jaderberg et al. 2015, section 3.3.
"""

from abc import ABC, abstractmethod

from jaxtyping import Float
from torch import Tensor, nn

from stn_lightning.geometry import antialiasing, sampling, wide
from stn_lightning.geometry.sampling import Padding


class Sampler(nn.Module, ABC):
    """Reads an image at a grid.

    Args:
        padding: what lies outside the image: "zeros", "border", "reflection", or a colour as a list
            with a number a channel. Give the value that the background has AFTER normalisation; a
            black border around a normalised image is an edge to a network.

    Raises:
        ValueError: where `padding` is another word.
    """

    def __init__(self, padding: Padding = "zeros") -> None:
        super().__init__()
        if isinstance(padding, str) and padding not in ("zeros", "border", "reflection"):
            raise ValueError(
                f'padding "{padding}" is unknown; take "zeros", "border", "reflection", or a colour as a list of numbers'
            )
        self.padding = padding

    @abstractmethod
    def forward(
        self,
        image: Float[Tensor, "batch channels *in_size"],
        grid: Float[Tensor, "batch *out_size dimensions"],
    ) -> Float[Tensor, "batch channels *out_size"]: ...

    def sample_each(
        self,
        image: Float[Tensor, "batch channels *in_size"],
        grids: Float[Tensor, "batch n *out_size dimensions"],
    ) -> Float[Tensor, "batch n channels *out_size"]:
        """Reads each image at `n` grids in one call: they stand below each other in one tall grid,
        so that no image is copied.
        """
        return _apart(self(image, grids.flatten(1, 2)), grids.shape[1])


class Bilinear(Sampler):
    """The paper's sampler (equation 5)."""

    def forward(
        self,
        image: Float[Tensor, "batch channels h_in w_in"],
        grid: Float[Tensor, "batch height width 2"],
    ) -> Float[Tensor, "batch channels height width"]:
        return sampling.bilinear(image, grid, self.padding)


class Nearest(Sampler):
    """Copies the nearest pixel (equation 4). Gives theta no gradient: for a trained transformer."""

    def forward(
        self,
        image: Float[Tensor, "batch channels h_in w_in"],
        grid: Float[Tensor, "batch height width 2"],
    ) -> Float[Tensor, "batch channels height width"]:
        return sampling.nearest(image, grid, self.padding)


class Bicubic(Sampler):
    """Sharper than bilinear, and its gradient sees 16 pixels instead of 4."""

    def forward(
        self,
        image: Float[Tensor, "batch channels h_in w_in"],
        grid: Float[Tensor, "batch height width 2"],
    ) -> Float[Tensor, "batch channels height width"]:
        return sampling.bicubic(image, grid, self.padding)


class Trilinear(Sampler):
    """Bilinear for volumes."""

    def forward(
        self,
        image: Float[Tensor, "batch channels d_in h_in w_in"],
        grid: Float[Tensor, "batch depth height width 3"],
    ) -> Float[Tensor, "batch channels depth height width"]:
        return sampling.trilinear(image, grid, self.padding)


class Antialiased(Sampler):
    """Each output pixel is the mean of what it covers of the image: for grids that shrink. Bilinear
    where they don't, bit for bit.
    """

    def forward(
        self,
        image: Float[Tensor, "batch channels h_in w_in"],
        grid: Float[Tensor, "batch height width 2"],
    ) -> Float[Tensor, "batch channels height width"]:
        return antialiasing.sample_antialiased(image, grid, self.padding)

    def sample_each(
        self,
        image: Float[Tensor, "batch channels h_in w_in"],
        grids: Float[Tensor, "batch n height width 2"],
    ) -> Float[Tensor, "batch n channels height width"]:
        return _apart(
            antialiasing.sample_antialiased(
                image, grids.flatten(1, 2), self.padding, num_grids=grids.shape[1]
            ),
            grids.shape[1],
        )


class WideGradient(Sampler):
    """Reads what another sampler reads, and pulls theta towards what lies around, near or far: for
    transformers that would not find it.

    Args:
        sampler: reads; bilinear with zeros outside when left out.
    """

    def __init__(self, sampler: Sampler | None = None) -> None:
        reader = sampler or Bilinear()
        super().__init__(reader.padding)
        self.sampler = reader

    def forward(
        self,
        image: Float[Tensor, "batch channels h_in w_in"],
        grid: Float[Tensor, "batch height width 2"],
    ) -> Float[Tensor, "batch channels height width"]:
        return wide.widen_gradient(self.sampler(image, grid), image, grid, self.padding)

    def sample_each(
        self,
        image: Float[Tensor, "batch channels h_in w_in"],
        grids: Float[Tensor, "batch n height width 2"],
    ) -> Float[Tensor, "batch n channels height width"]:
        tall = self.sampler.sample_each(image, grids).transpose(1, 2).flatten(2, 3)
        return _apart(
            wide.widen_gradient(tall, image, grids.flatten(1, 2), self.padding), grids.shape[1]
        )


def _apart(
    tall: Float[Tensor, "batch channels rows *rest"], n: int
) -> Float[Tensor, "batch n channels *size"]:
    """`n` images that stand below each other, apart."""
    return tall.unflatten(2, (n, -1)).transpose(1, 2)

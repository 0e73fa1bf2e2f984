"""Base classes of distortions."""

from abc import ABC, abstractmethod

from jaxtyping import Float, UInt8
from torch import Tensor, nn

from stn_lightning.distortions.counter_random import CounterRandom
from stn_lightning.geometry import sampling


class Distortion(nn.Module, ABC):
    """Base class of distortions of images.

    Args:
        size: side of the distorted image, in pixels.
        digit: side of the image that is distorted, in pixels.
    """

    def __init__(self, size: int, digit: int = 28) -> None:
        super().__init__()
        self.size = size
        self.digit = digit

    @property
    def shape(self) -> tuple[int, ...]:
        """(height, width) of a distorted image, or (depth, height, width)."""
        return (self.size, self.size)

    @abstractmethod
    def forward(
        self,
        images: Float[Tensor, "batch channels digit digit"],
        randomness: CounterRandom,
        pool: UInt8[Tensor, "images channels digit digit"],
    ) -> Float[Tensor, "batch channels *shape"]:
        """Distort a batch.

        Args:
            images: 0 is background, 1 is ink.
            randomness: random numbers of these images, in their order.
            pool: all images of the split at their index, for distortions that borrow from others.
        """


class WarpingDistortion(Distortion):
    """Base class of distortions by a random grid."""

    @abstractmethod
    def theta(self, randomness: CounterRandom) -> Float[Tensor, "batch numbers"]:
        """Draw maps from the distorted image to the original."""

    @abstractmethod
    def grid(self, theta: Float[Tensor, "batch numbers"]) -> Float[Tensor, "batch size size 2"]:
        """Return the sampling grid of the distorted image."""

    def forward(
        self,
        images: Float[Tensor, "batch channels digit digit"],
        randomness: CounterRandom,
        pool: UInt8[Tensor, "images channels digit digit"],
    ) -> Float[Tensor, "batch channels size size"]:
        return sampling.bilinear(images, self.grid(self.theta(randomness)))

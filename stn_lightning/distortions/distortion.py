"""What a distortion is."""

from abc import ABC, abstractmethod

from jaxtyping import Float, UInt8
from torch import Tensor, nn

from stn_lightning.distortions.counter_random import CounterRandom
from stn_lightning.geometry import sampling


class Distortion(nn.Module, ABC):
    """Makes pictures harder, a batch at a time, on any device.

    Args:
        size: side of the distorted picture, in pixels.
        digit: side of the picture that is distorted, in pixels.
    """

    def __init__(self, size: int, digit: int = 28) -> None:
        super().__init__()
        self.size = size
        self.digit = digit

    @property
    def shape(self) -> tuple[int, ...]:
        """(height, width) of a distorted picture, or (depth, height, width)."""
        return (self.size, self.size)

    @abstractmethod
    def forward(
        self,
        pictures: Float[Tensor, "batch channels digit digit"],
        randomness: CounterRandom,
        pool: UInt8[Tensor, "pictures channels digit digit"],
    ) -> Float[Tensor, "batch channels *shape"]:
        """The distorted pictures.

        Args:
            pictures: 0 is background, 1 is ink.
            randomness: of these pictures, in their order.
            pool: all pictures of the split, at their index, for distortions that borrow from
                others.
        """


class WarpingDistortion(Distortion):
    """A distortion that moves ink and adds none: it reads the picture at a grid."""

    @abstractmethod
    def theta(self, randomness: CounterRandom) -> Float[Tensor, "batch numbers"]:
        """The random parameters, float32; they map the distorted picture to the picture, as
        everywhere.
        """

    @abstractmethod
    def grid(self, theta: Float[Tensor, "batch numbers"]) -> Float[Tensor, "batch size size 2"]:
        """Where in the picture each pixel of the distorted picture looks."""

    def forward(
        self,
        pictures: Float[Tensor, "batch channels digit digit"],
        randomness: CounterRandom,
        pool: UInt8[Tensor, "pictures channels digit digit"],
    ) -> Float[Tensor, "batch channels size size"]:
        return sampling.bilinear(pictures, self.grid(self.theta(randomness)))

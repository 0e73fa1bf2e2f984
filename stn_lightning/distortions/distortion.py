"""Base classes of distortions."""

from abc import ABC, abstractmethod

from jaxtyping import Float, UInt8
from torch import Tensor, nn

from stn_lightning.distortions.counter_random import CounterRandom
from stn_lightning.geometry import lattice, sampling
from stn_lightning.shapes import Theta

Digits = Float[Tensor, "batch channels digit digit"]
"""Images to distort, from 0, the background, to 1."""
Pool = UInt8[Tensor, "images channels digit digit"]
"""All images of a split."""
Canvas = Float[Tensor, "batch channels size size"]
"""Distorted images."""


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
        self, images: Digits, randomness: CounterRandom, pool: Pool
    ) -> Float[Tensor, "batch channels *shape"]:
        """Distort a batch.

        Args:
            images: images from 0, the background, to 1.
            randomness: random numbers of these images, in their order.
            pool: all images of the split, for distortions that paste parts of other images.
        """


class WarpingDistortion(Distortion):
    """Base class of distortions by a random grid."""

    @abstractmethod
    def theta(self, randomness: CounterRandom) -> Theta:
        """Draw maps from the distorted image to the original."""

    @abstractmethod
    def grid(self, theta: Theta) -> Float[Tensor, "batch size size 2"]:
        """Return the sampling grid of the distorted image."""

    def forward(self, images: Digits, randomness: CounterRandom, pool: Pool) -> Canvas:
        return sampling.bilinear(images, self.grid(self.theta(randomness)))


class Augmented(Distortion):
    """A small warp and a distortion, with one sampling.

    The displacements of the augmentation are sampled at the grid of the distortion and added to it.
    The distortion draws its random numbers first, so they are the same as without augmentation.

    Args:
        distortion: distortion of the task.
        augmentation: warp of the image before the distortion; it must keep the image's size.

    Raises:
        ValueError: the augmentation changes the image's size.

    Examples:
        >>> from stn_lightning.distortions import Elastic, Rotated
        >>> Augmented(Rotated(42), Elastic(std=1.0, scale=(1.0, 1.0))).shape
        (42, 42)
    """

    def __init__(self, distortion: WarpingDistortion, augmentation: WarpingDistortion) -> None:
        super().__init__(distortion.size, distortion.digit)
        if (augmentation.size, augmentation.digit) != (distortion.digit, distortion.digit):
            raise ValueError(
                f"an augmentation to {augmentation.size} px of {augmentation.digit} px images; "
                f"give size and digit {distortion.digit}"
            )
        self.distortion = distortion
        self.augmentation = augmentation

    def forward(self, images: Digits, randomness: CounterRandom, pool: Pool) -> Canvas:
        grid = self.distortion.grid(self.distortion.theta(randomness))
        warped = self.augmentation.grid(self.augmentation.theta(randomness))
        moved = (warped - lattice.points(images.shape[2:], warped)).movedim(-1, 1)
        shift = sampling.bilinear(moved, grid, "border").movedim(1, -1)
        return sampling.bilinear(images, grid + shift)

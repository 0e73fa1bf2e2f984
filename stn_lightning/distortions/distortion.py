"""Base classes of distortions."""

from abc import ABC, abstractmethod

from jaxtyping import Float, UInt8
from torch import Tensor, nn

from stn_lightning.distortions.counter_random import CounterRandom
from stn_lightning.geometry import lattice, sampling


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


class Augmented(Distortion):
    """A distortion of images that are warped a little before it, read once.

    The augmentation's displacements are looked up where the distortion reads, so that one sampling
    does both. The distortion draws its random numbers first: they are those it draws alone.

    Args:
        distortion: distortion of the task.
        augmentation: warp of the image before it, of the image's own size.

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

    def forward(
        self,
        images: Float[Tensor, "batch channels digit digit"],
        randomness: CounterRandom,
        pool: UInt8[Tensor, "images channels digit digit"],
    ) -> Float[Tensor, "batch channels size size"]:
        grid = self.distortion.grid(self.distortion.theta(randomness))
        warped = self.augmentation.grid(self.augmentation.theta(randomness))
        moved = (warped - lattice.points(images.shape[2:], warped)).movedim(-1, 1)
        shift = sampling.bilinear(moved, grid, "border").movedim(1, -1)
        return sampling.bilinear(images, grid + shift)

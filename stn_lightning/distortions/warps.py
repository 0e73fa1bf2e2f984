"""R, RTS, P and E: random warps of digits.

R is rotated; RTS rotated, scaled and translated; P projective; E elastic. (?) marks what the paper
does not say: the canvas of R, P and E, and the meaning of "random location".

Reference:
    Jaderberg et al. 2015, section 4.1 and appendix A.4.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from stn_lightning.distortions.counter_random import CounterRandom
from stn_lightning.distortions.distortion import WarpingDistortion
from stn_lightning.geometry import affine, projective, thin_plate_spline
from stn_lightning.shapes import Theta


class RotatedScaledTranslated(WarpingDistortion):
    """RTS: rotated, scaled and translated on a larger canvas.

    Before the rotation the scaled image is entirely inside the canvas (?).

    Args:
        size: side of the canvas, in pixels.
        rotation: largest angle in either direction, in degrees.
        scale: smallest and largest scale.
        digit: side of the image, in pixels.

    Raises:
        ValueError: the largest image does not fit on the canvas.

    >>> randomness = CounterRandom(seed=0, stream=0, epoch=0, index=torch.arange(5))
    >>> distortion, images = RotatedScaledTranslated(42), torch.rand(5, 1, 28, 28)
    >>> distortion(images, randomness, pool=images.byte()).shape
    torch.Size([5, 1, 42, 42])
    """

    def __init__(
        self,
        size: int = 42,
        rotation: float = 45.0,
        scale: tuple[float, float] = (0.7, 1.2),
        digit: int = 28,
    ) -> None:
        super().__init__(size, digit)
        if not 0 < scale[0] <= scale[1] <= size / digit:
            raise ValueError(
                f"scale {scale[0]} to {scale[1]} of {digit} px images on a canvas of {size} px: "
                f"give 0 < smallest <= largest <= {size / digit:.3g}"
            )
        self.rotation = rotation
        self.scale = scale

    def theta(self, randomness: CounterRandom) -> Float[Tensor, "batch 6"]:
        angle = randomness.uniform(1, -self.rotation, self.rotation)[:, 0] * (math.pi / 180)
        scale = randomness.uniform(1, *self.scale)[:, 0]
        # largest shift of the centre, in halves of the canvas
        limit = 1 - scale * (self.digit / self.size)
        u, v = (randomness.uniform(2, -1.0, 1.0) * limit[:, None]).unbind(1)
        zoom = self.size / self.digit / scale
        a, b = zoom * angle.cos(), zoom * angle.sin()
        return torch.stack([a, b, -(a * u + b * v), -b, a, b * u - a * v], dim=1).float()

    def grid(self, theta: Float[Tensor, "batch 6"]) -> Float[Tensor, "batch size size 2"]:
        return affine.grid(theta, (self.size, self.size))


class Rotated(RotatedScaledTranslated):
    """R: rotated about its centre.

    Args:
        size: side of the canvas, in pixels; by default that of the image (?).
        rotation: largest angle in either direction, in degrees.
        digit: side of the image, in pixels.

    >>> Rotated().scale
    (1.0, 1.0)
    """

    def __init__(self, size: int = 28, rotation: float = 90.0, digit: int = 28) -> None:
        super().__init__(size, rotation, (size / digit, size / digit), digit)


class Perspective(WarpingDistortion):
    """P: scaled, then stretched at each corner.

    Each corner moves outwards or inwards along its diagonal (?). The paper says that each corner is
    stretched "by an amount". If x and y moved by different amounts, 1.5 % of the test digits would
    be folded or unrecognisable, and the paper's error of 0.8 % impossible (docs/log.md).

    Args:
        size: side of the canvas, in pixels; by default that of the image (?).
        scale: smallest and largest scale.
        std: standard deviation of each corner's displacement, in pixels.
        digit: side of the image, in pixels.

    >>> Perspective().shape
    (28, 28)
    """

    def __init__(
        self,
        size: int = 28,
        scale: tuple[float, float] = (0.75, 1.0),
        std: float = 5.0,
        digit: int = 28,
    ) -> None:
        super().__init__(size, digit)
        self.scale = scale
        self.std = std

    def corners(self, randomness: CounterRandom) -> Float[Tensor, "batch 4 2"]:
        """Draw the positions of the image's corners.

        They are (x, y) in pixels from the canvas's centre, clockwise from the top left.
        """
        scale = randomness.uniform(1, *self.scale)[:, :, None]
        frame = scale.new_tensor([[-1, -1], [1, -1], [1, 1], [-1, 1]]) * (self.digit / 2)
        along = randomness.normal(4, self.std)[:, :, None]
        return frame * scale + frame.sign() / math.sqrt(2) * along

    def theta(self, randomness: CounterRandom) -> Float[Tensor, "batch 8"]:
        corners = self.corners(randomness) / (self.size / 2)
        return projective.inverse(projective.from_corners(corners)).float()

    def grid(self, theta: Float[Tensor, "batch 8"]) -> Float[Tensor, "batch size size 2"]:
        return projective.grid(theta, (self.size, self.size))


class Elastic(WarpingDistortion):
    """E: scaled, then bent by a thin plate spline.

    Args:
        size: side of the canvas, in pixels; by default that of the image (?).
        scale: smallest and largest scale.
        std: standard deviation of each control point's displacement along x and along y, in pixels
            of the image.
        lattice_size: number of control points along each axis; the paper's 16 are 4 x 4 (?).
        digit: side of the image, in pixels.

    >>> Elastic().points.shape
    torch.Size([16, 2])
    """

    points: Tensor
    basis: Tensor

    def __init__(
        self,
        size: int = 28,
        scale: tuple[float, float] = (0.75, 1.0),
        std: float = 1.5,
        lattice_size: int = 4,
        digit: int = 28,
    ) -> None:
        super().__init__(size, digit)
        self.scale = scale
        self.std = std
        points = thin_plate_spline.control_points(lattice_size)
        basis = thin_plate_spline.basis(points, (size, size))
        self.register_buffer("points", points, persistent=False)
        self.register_buffer("basis", basis, persistent=False)

    def theta(self, randomness: CounterRandom) -> Theta:
        scale = randomness.uniform(1, *self.scale)[:, :, None]
        moved = randomness.normal(self.points.numel(), self.std / (self.digit / 2))
        zoom = self.size / self.digit / scale
        # a spline whose points move by an affine map is that map, so theta can hold the scale, too
        return (self.points * (zoom - 1) + moved.unflatten(1, (-1, 2))).flatten(1).float()

    def grid(self, theta: Theta) -> Float[Tensor, "batch size size 2"]:
        return thin_plate_spline.grid(theta, self.basis, (self.size, self.size))

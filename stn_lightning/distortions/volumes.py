"""Digits in space: extruded, in a random pose.

Reference:
    Jaderberg et al. 2015, appendix A.3, which gives the cube (60 x 60 x 60) and neither thickness
    nor pose.
"""

import math

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from stn_lightning.distortions.counter_random import CounterRandom
from stn_lightning.distortions.distortion import Digits, Distortion, Pool
from stn_lightning.geometry import sampling
from stn_lightning.geometry.lattice import axis, upcast


class RandomPose3D(Distortion):
    """Extrudes the image to a slab in a cube.

    The slab is rotated about all three axes, scaled, and moved to a random position.

    Args:
        size: side of the cube, in voxels; the paper's is 60.
        rotation: largest angle about each axis, in either direction, in degrees (?).
        scale: smallest and largest scale; with 1 the image is half as wide as the cube (?).
        thickness: thickness of the slab / side of the image (?).
        digit: side of the image, in pixels.

    Raises:
        ValueError: the largest slab does not fit into the cube.

    >>> randomness = CounterRandom(seed=0, stream=0, epoch=0, index=torch.arange(5))
    >>> images = torch.rand(5, 1, 28, 28)
    >>> RandomPose3D(20)(images, randomness, pool=images.byte()).shape
    torch.Size([5, 1, 20, 20, 20])
    """

    def __init__(
        self,
        size: int = 60,
        rotation: float = 45.0,
        scale: tuple[float, float] = (0.7, 1.2),
        thickness: float = 0.25,
        digit: int = 28,
    ) -> None:
        super().__init__(size, digit)
        if not 0 < scale[0] <= scale[1] <= 2:
            raise ValueError(
                f"scale {scale[0]} to {scale[1]}: give 0 < smallest <= largest <= 2, "
                "at which the frame is as wide as the cube"
            )
        self.rotation = rotation
        self.scale = scale
        self.thickness = thickness

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.size, self.size, self.size)

    def theta(self, randomness: CounterRandom) -> Float[Tensor, "batch 12"]:
        """Draw maps from the cube to the image, [-1, 1]."""
        a, b, c = (randomness.uniform(3, -self.rotation, self.rotation) * (math.pi / 180)).unbind(1)
        scale = randomness.uniform(1, *self.scale)[:, 0] / 2
        place = randomness.uniform(3, -1.0, 1.0) * (1 - scale)[:, None]  # (B, 3)
        rotation = _rotation(c, 0, 1) @ _rotation(b, 2, 0) @ _rotation(a, 1, 2)  # about z, y and x
        linear = rotation / scale[:, None, None]
        return torch.cat([linear, -(linear @ place[:, :, None])], 2).flatten(1).float()

    def forward(
        self, images: Digits, randomness: CounterRandom, pool: Pool
    ) -> Float[Tensor, "batch channels size size size"]:
        if len(images) == 0:
            return images.new_zeros(0, images.shape[1], *self.shape)
        image, voxel, points = self._slab(self.theta(randomness))
        count = torch.bincount(image, minlength=len(images))
        number = torch.arange(len(image), device=image.device)
        number = number - (count.cumsum(0) - count)[image]  # 0, 1, 2 ... within each image
        # one row of points for each image, padded with points out of bounds
        grid = points.new_full((len(images), int(count.max()), 2), 2.0)
        grid[image, number] = points[:, :2]
        face = sampling.bilinear(images, grid[:, None])[image, :, 0, number]  # (points, C)
        # the slab's faces are blurred over a pixel, as bilinear sampling blurs edges
        edge = self.digit / 2 * (self.thickness - points[:, 2].abs()) + 0.5
        posed = images.new_zeros(*images.shape[:2], self.size**3)
        posed[image, :, voxel] = face * edge.clamp(0, 1)[:, None]
        return posed.unflatten(2, self.shape)

    def _slab(
        self, theta: Float[Tensor, "batch 12"]
    ) -> tuple[Int64[Tensor, " points"], Int64[Tensor, " points"], Float[Tensor, "points 3"]]:
        """Return the slab's voxels, a few percent of the cube.

        A line of voxels along the depth is a straight line in the image's coordinates, so a single
        interval of it is in the slab.

        Returns:
            For each voxel the number of its image, its index in the flattened cube, and its point
            in the image's coordinates.
        """
        n = self.size
        m = upcast(theta).unflatten(1, (3, 4))[:, None, None]  # (B, 1, 1, 3, 4)
        centres = axis(n, m)
        y = m[..., 1] * centres[:, None, None] + m[..., 3]
        start = m[..., 0] * centres[:, None] + y  # (B, H, W, 3)
        slope = torch.where(m[..., 2].abs() < 1e-6, 1e-6, m[..., 2])
        # half a pixel more, for the blur
        reach = m.new_tensor([1, 1, self.thickness]) + 1 / self.digit
        middle, half = -start / slope, reach / slope.abs()
        first = (((middle - half).amax(3) * n + n - 1) / 2).ceil().clamp(0, n)  # as indices
        last = (((middle + half).amin(3) * n + n - 1) / 2).floor().clamp(-1, n - 1)
        count = (last - first + 1).clamp(min=0).long().flatten()
        column = torch.arange(len(count), device=count.device).repeat_interleave(count)
        before = first.flatten().long() - (count.cumsum(0) - count)
        k = torch.arange(len(column), device=count.device) + before[column]
        image = column // n**2
        points = start.flatten(0, 2)[column] + slope.flatten(0, 2)[image] * centres[k, None]
        return image, k * n**2 + column % n**2, points


def _rotation(
    angle: Float[Tensor, " batch"], first: int, second: int
) -> Float[Tensor, "batch 3 3"]:
    """Return rotations in the plane of two axes."""
    matrix = torch.eye(3, dtype=angle.dtype, device=angle.device).repeat(len(angle), 1, 1)
    matrix[:, first, first] = matrix[:, second, second] = angle.cos()
    matrix[:, first, second], matrix[:, second, first] = -angle.sin(), angle.sin()
    return matrix

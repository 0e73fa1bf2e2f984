"""Digits in space: extruded, turned, and put somewhere in a cube.

Reference:
    Jaderberg et al. 2015, appendix A.3, which gives the cube (60 x 60 x 60) and neither thickness
    nor pose.
"""

import math

import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor

from stn_lightning.distortions.counter_random import CounterRandom
from stn_lightning.distortions.distortion import Distortion
from stn_lightning.geometry import sampling
from stn_lightning.geometry.lattice import axis, upcast


class RandomPose3D(Distortion):
    """The picture extruded to a slab, turned about all three axes, scaled, and put in a random
    place of a cube.

    Args:
        size: side of the cube, in voxels; the paper's is 60.
        rotation: largest turn about each axis to either side, in degrees (?).
        scale: smallest and largest factor; 1 makes the picture's frame half as wide as the cube
            (?).
        thickness: of the slab, over the picture's side (?).
        digit: side of the picture, in pixels.

    Raises:
        ValueError: where the largest slab does not fit into the cube.
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
                f"scale {scale[0]} to {scale[1]}: give 0 < smallest <= largest <= 2, at which the frame is as wide as the cube"
            )
        self.rotation = rotation
        self.scale = scale
        self.thickness = thickness

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.size, self.size, self.size)

    def theta(self, randomness: CounterRandom) -> Float[Tensor, "batch 12"]:
        """The random pose, from the cube to the digit's own coordinates, in which its frame is [-1,
        1].
        """
        a, b, c = (randomness.uniform(3, -self.rotation, self.rotation) * (math.pi / 180)).unbind(1)
        scale = randomness.uniform(1, *self.scale)[:, 0] / 2
        place = randomness.uniform(3, -1.0, 1.0) * (1 - scale)[:, None]  # (B, 3)
        turn = _about(c, 0, 1) @ _about(b, 2, 0) @ _about(a, 1, 2)  # about z, y and x
        linear = turn / scale[:, None, None]
        return torch.cat([linear, -(linear @ place[:, :, None])], 2).flatten(1).float()

    def forward(
        self,
        pictures: Float[Tensor, "batch channels digit digit"],
        randomness: CounterRandom,
        pool: UInt8[Tensor, "pictures channels digit digit"],
    ) -> Float[Tensor, "batch channels size size size"]:
        image, place, points = self._touched(self.theta(randomness))
        count = torch.bincount(image, minlength=len(pictures))
        turn = (
            torch.arange(len(image), device=image.device) - (count.cumsum(0) - count)[image]
        )  # 0, 1, 2 ... within each image
        grid = points.new_full(
            (len(pictures), int(count.max()), 2), 2.0
        )  # one row of points an image, filled up with points outside
        grid[image, turn] = points[:, :2]
        face = sampling.bilinear(pictures, grid[:, None])[image, :, 0, turn]  # (points, C)
        edge = (
            self.digit / 2 * (self.thickness - points[:, 2].abs()) + 0.5
        )  # a slab whose faces blur over a pixel, as bilinear edges do
        posed = pictures.new_zeros(len(pictures), pictures.shape[1], self.size**3)
        posed[image, :, place] = face * edge.clamp(0, 1)[:, None]
        return posed.unflatten(2, self.shape)

    def _touched(
        self, theta: Float[Tensor, "batch 12"]
    ) -> tuple[Int64[Tensor, " points"], Int64[Tensor, " points"], Float[Tensor, "points 3"]]:
        """The voxels that the slab reaches, a few in a hundred: of which image, where in its cube,
        where in the digit's own coordinates.

        A line of voxels along the depth is straight in those, so it is in the slab from one voxel
        to another.
        """
        n = self.size
        m = upcast(theta).unflatten(1, (3, 4))[:, None, None]  # (B, 1, 1, 3, 4)
        at = axis(n, m)
        start = m[..., 0] * at[:, None] + (
            m[..., 1] * at[:, None, None] + m[..., 3]
        )  # (B, H, W, 3)
        slope = torch.where(m[..., 2].abs() < 1e-6, 1e-6, m[..., 2])
        reach = (
            m.new_tensor([1, 1, self.thickness]) + 1 / self.digit
        )  # half a pixel: as far as ink blurs
        middle, half = -start / slope, reach / slope.abs()
        first = (
            (((middle - half).amax(3) * n + n - 1) / 2).ceil().clamp(0, n)
        )  # of the voxels, not their coordinates
        last = (((middle + half).amin(3) * n + n - 1) / 2).floor().clamp(-1, n - 1)
        count = (last - first + 1).clamp(min=0).long().flatten()
        column = torch.arange(len(count), device=count.device).repeat_interleave(count)
        k = (
            torch.arange(len(column), device=count.device)
            + (first.flatten().long() - (count.cumsum(0) - count))[column]
        )
        image = column // n**2
        points = start.flatten(0, 2)[column] + slope.flatten(0, 2)[image] * at[k, None]
        return image, k * n**2 + column % n**2, points


def _about(angle: Float[Tensor, " batch"], first: int, second: int) -> Float[Tensor, "batch 3 3"]:
    """A turn in the plane of two axes."""
    turn = torch.eye(3, dtype=angle.dtype, device=angle.device).repeat(len(angle), 1, 1)
    turn[:, first, first] = turn[:, second, second] = angle.cos()
    turn[:, first, second], turn[:, second, first] = -angle.sin(), angle.sin()
    return turn

"""Digits in space: extruded, turned, and put somewhere in a cube.

Reference:
    Jaderberg et al. 2015, appendix A.3, which gives the cube (60 x 60 x 60) and neither thickness nor pose.
"""

import math

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from stn_lightning.distortions.distortion import Distortion
from stn_lightning.distortions.randomness import Randomness
from stn_lightning.geometry import sampling, volume


class PosedInSpace(Distortion):
    """The picture extruded to a slab, turned about all three axes, scaled, and put in a random place of a cube.

    Args:
        size: side of the cube, in voxels; the paper's is 60.
        rotation: largest turn about each axis to either side, in degrees (?).
        scale: smallest and largest factor; 1 makes the picture's frame half as wide as the cube (?).
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

    def theta(self, randomness: Randomness) -> Float[Tensor, "batch 12"]:
        """The random pose, from the cube to the digit's own coordinates, in which its frame is [-1, 1]."""
        a, b, c = (randomness.uniform(3, -self.rotation, self.rotation) * (math.pi / 180)).unbind(1)
        scale = randomness.uniform(1, *self.scale)[:, 0] / 2
        place = randomness.uniform(3, -1.0, 1.0) * (1 - scale)[:, None]  # (B, 3)
        turn = _about(c, 0, 1) @ _about(b, 2, 0) @ _about(a, 1, 2)  # about z, y and x
        linear = turn / scale[:, None, None]
        return torch.cat([linear, -(linear @ place[:, :, None])], 2).flatten(1).float()

    def forward(
        self,
        pictures: Float[Tensor, "batch channels digit digit"],
        randomness: Randomness,
        pool: UInt8[Tensor, "pictures channels digit digit"],
    ) -> Float[Tensor, "batch channels size size size"]:
        depth, height, width = self.shape
        grid = volume.grid(self.theta(randomness), (depth, height, width))  # (B, D, H, W, 3)
        face = sampling.bilinear(pictures, grid[..., :2].flatten(1, 2)).unflatten(2, (depth, height))
        edge = self.digit / 2 * (self.thickness - grid[..., 2].abs()) + 0.5  # a slab whose faces blur over a pixel, as bilinear edges do
        return face * edge.clamp(0, 1)[:, None]


def _about(angle: Float[Tensor, " batch"], first: int, second: int) -> Float[Tensor, "batch 3 3"]:
    """A turn in the plane of two axes."""
    turn = torch.eye(3, dtype=angle.dtype, device=angle.device).repeat(len(angle), 1, 1)
    turn[:, first, first] = turn[:, second, second] = angle.cos()
    turn[:, first, second], turn[:, second, first] = -angle.sin(), angle.sin()
    return turn

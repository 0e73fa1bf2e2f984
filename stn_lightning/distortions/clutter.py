"""TC: translated digits among scraps of other digits.

Reference:
    Jaderberg et al. 2015, section 4.1; the data set is that of Mnih et al. 2014.
"""

import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor

from stn_lightning.distortions.counter_random import CounterRandom
from stn_lightning.distortions.distortion import Distortion


class Cluttered(Distortion):
    """The picture at a random place of a larger canvas, then scraps cut from random places of other
    pictures.

    Places are whole pixels and everything stays inside the canvas (?). Where things overlap, the
    brighter shows (?).

    Args:
        size: of the canvas, in pixels.
        num_patches: how many.
        patch_size: side of each, in pixels.
        digit: side of the picture, in pixels.

    Raises:
        ValueError: where picture or scraps do not fit.
    """

    def __init__(
        self, size: int = 60, num_patches: int = 6, patch_size: int = 6, digit: int = 28
    ) -> None:
        super().__init__(size, digit)
        if not patch_size <= digit <= size:
            raise ValueError(
                f"scraps of {patch_size} px from pictures of {digit} px on {size} px: give scrap <= digit <= size"
            )
        self.scraps = num_patches
        self.scrap = patch_size

    def place(self, randomness: CounterRandom) -> Int64[Tensor, "batch 2"]:
        """(row, column) of the picture's corner on the canvas: the first numbers that are drawn."""
        return randomness.integer(2, self.size - self.digit + 1)

    def forward(
        self,
        pictures: Float[Tensor, "batch channels digit digit"],
        randomness: CounterRandom,
        pool: UInt8[Tensor, "pictures channels digit digit"],
    ) -> Float[Tensor, "batch channels size size"]:
        batch, channels = pictures.shape[:2]
        n, side = self.scraps, self.scrap
        place = self.place(randomness)
        source = randomness.integer(n, max(len(pool) - 1, 1))
        own = randomness.index[:, None] % max(len(pool), 1)
        source = source + (source >= own).long()  # any image but this one
        cut = randomness.integer(2 * n, self.digit - side + 1).unflatten(1, (n, 2))
        paste = randomness.integer(2 * n, self.size - side + 1).unflatten(1, (n, 2))

        canvas = pictures.new_zeros(batch, channels, self.size * self.size)
        at = _square(place, self.digit, self.size)[:, None].expand(
            -1, channels, -1
        )  # (B, C, digit^2)
        canvas.scatter_(2, at, pictures.flatten(2))
        channel = torch.arange(channels, device=place.device)[:, None]
        picture = source.clamp(max=len(pool) - 1)[:, :, None, None]
        inside = _square(cut, side, self.digit)[:, :, None]  # (B, n, 1, side^2)
        scraps = (
            pool.flatten(2)[picture, channel, inside].to(pictures.dtype) / 255
        )  # (B, n, C, side^2)
        at = (
            _square(paste, side, self.size).flatten(1)[:, None].expand(-1, channels, -1)
        )  # (B, C, n*side^2)
        canvas.scatter_reduce_(2, at, scraps.transpose(1, 2).flatten(2), "amax")
        return canvas.unflatten(2, (self.size, self.size))


def _square(
    corner: Int64[Tensor, "*batch 2"], side: int, width: int
) -> Int64[Tensor, "*batch pixels"]:
    """Indices of a square's pixels in an image of `width` whose pixels stand in one row."""
    steps = torch.arange(side, device=corner.device)
    rows, columns = corner[..., 0, None] + steps, corner[..., 1, None] + steps
    return (rows[..., :, None] * width + columns[..., None, :]).flatten(-2)

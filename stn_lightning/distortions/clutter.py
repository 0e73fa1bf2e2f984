"""TC: translated digits among patches of other digits.

Reference:
    Jaderberg et al. 2015, section 4.1; the data set is that of Mnih et al. 2014.
"""

import torch
from jaxtyping import Int64
from torch import Tensor

from stn_lightning.distortions.counter_random import CounterRandom
from stn_lightning.distortions.distortion import Canvas, Digits, Distortion, Pool


class Cluttered(Distortion):
    """TC: translated on a larger canvas, with clutter.

    Positions are whole pixels, and nothing is cut off at the canvas's border (?). Where digit and
    patches overlap, the brightest value counts (?).

    Args:
        size: side of the canvas, in pixels.
        num_patches: number of patches, cut from random places of other images.
        patch_size: side of each patch, in pixels.
        digit: side of the image, in pixels.

    Raises:
        ValueError: the image is larger than the canvas, or the patches than the image.

    >>> randomness = CounterRandom(seed=0, stream=0, epoch=0, index=torch.arange(5))
    >>> images = torch.rand(5, 1, 28, 28)
    >>> Cluttered(60)(images, randomness, pool=images.byte()).shape
    torch.Size([5, 1, 60, 60])
    """

    def __init__(
        self, size: int = 60, num_patches: int = 6, patch_size: int = 6, digit: int = 28
    ) -> None:
        super().__init__(size, digit)
        if not patch_size <= digit <= size:
            raise ValueError(
                f"patches of {patch_size} px from images of {digit} px on {size} px: "
                "give patch_size <= digit <= size"
            )
        self.num_patches = num_patches
        self.patch_size = patch_size

    def place(self, randomness: CounterRandom) -> Int64[Tensor, "batch 2"]:
        """Draw (row, column) of the digit's upper left pixel.

        It must be the first call on `randomness`, as in `forward`, to give the same numbers.
        """
        return randomness.integer(2, self.size - self.digit + 1)

    def forward(self, images: Digits, randomness: CounterRandom, pool: Pool) -> Canvas:
        batch, channels = images.shape[:2]
        n, side = self.num_patches, self.patch_size
        place = self.place(randomness)
        source = randomness.integer(n, max(len(pool) - 1, 1))
        own = randomness.index[:, None] % max(len(pool), 1)
        source = source + (source >= own).long()  # skip the image itself
        cut = randomness.integer(2 * n, self.digit - side + 1).unflatten(1, (n, 2))
        paste = randomness.integer(2 * n, self.size - side + 1).unflatten(1, (n, 2))

        canvas = images.new_zeros(batch, channels, self.size * self.size)
        target = _square(place, self.digit, self.size)[:, None].expand(-1, channels, -1)
        canvas.scatter_(2, target, images.flatten(2))
        channel = torch.arange(channels, device=place.device)[:, None]
        source = source.clamp(max=len(pool) - 1)[:, :, None, None]
        inside = _square(cut, side, self.digit)[:, :, None]  # (B, n, 1, side^2)
        patches = pool.flatten(2)[source, channel, inside]  # (B, n, C, side^2)
        patches = (patches.to(images.dtype) / 255).transpose(1, 2).flatten(2)
        target = _square(paste, side, self.size).flatten(1)[:, None].expand(-1, channels, -1)
        canvas.scatter_reduce_(2, target, patches, "amax")
        return canvas.unflatten(2, (self.size, self.size))


def _square(
    corner: Int64[Tensor, "*batch 2"], side: int, width: int
) -> Int64[Tensor, "*batch pixels"]:
    """Return a square's indices in a flattened image."""
    steps = torch.arange(side, device=corner.device)
    rows, columns = corner[..., 0, None] + steps, corner[..., 1, None] + steps
    return (rows[..., :, None] * width + columns[..., None, :]).flatten(-2)

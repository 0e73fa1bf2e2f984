"""Compose synthetic house numbers from real digits.

Drawn at random for each image are position, size and angle of the number, colours and contrast, a
background with gradients, an edge and texture, smaller and fainter digits around the number, and
blur.
"""

import math

import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor, nn
from torch.nn import functional

from stn_lightning.distortions.counter_random import CounterRandom
from stn_lightning.geometry import affine, lattice, sampling

NUMBER = 1 / 1.3
"""Half side of the box around all digits, in coordinates from -1 to 1 across the crop, which is
30 % larger.
"""


class DigitPool(nn.Module):
    """Digits by class, with boxes around their ink.

    Args:
        image: images; 0 is background.
        label: classes 0 to 9, each at least once.
    """

    image: Tensor
    start: Tensor
    count: Tensor
    ink: Tensor

    def __init__(
        self, image: UInt8[Tensor, "images 1 side side"], label: Int64[Tensor, " images"]
    ) -> None:
        super().__init__()
        order = label.argsort(stable=True)
        count = label.bincount(minlength=10)
        if len(count) != 10 or not count.all():
            raise ValueError(
                "numbers are composed from digits of the classes 0 to 9; give at least one of each"
            )
        for name, value in {
            "image": image[order],
            "start": count.cumsum(0) - count,
            "count": count,
            "ink": _ink(image[order]),
        }.items():
            self.register_buffer(name, value, persistent=False)

    def pick(
        self, label: Int64[Tensor, "batch n"], randomness: CounterRandom
    ) -> Int64[Tensor, "batch n"]:
        """Pick random images of each class; 0 for none."""
        known = label.where(label < 10, 0)
        return self.start[known] + randomness.integer(label.shape[1], self.count[known])


class SyntheticNumber(nn.Module):
    """Compose images of numbers from their layouts.

    Each image is a function of its layout and its random numbers.

    Args:
        size: side of the image, in pixels.
        looseness: side of the image / side of the crop that is 30 % larger than the number; above 1
            there is more background.
        shift: largest shift of the number from the middle along x and y, in halves of a side.
        scale: smallest and largest scale of the number, relative to its layout.
        turn: largest angle, in degrees.
        others: number of other digits around the number.
    """

    def __init__(
        self,
        size: int,
        looseness: float = 1.0,
        shift: float = 0.1,
        scale: tuple[float, float] = (0.8, 1.1),
        turn: float = 12.0,
        others: int = 4,
    ) -> None:
        super().__init__()
        self.size, self.looseness, self.shift = size, looseness, shift
        self.scale, self.turn, self.others = scale, turn, others

    def forward(
        self,
        box: Float[Tensor, "batch digits 4"],
        label: Int64[Tensor, "batch digits"],
        aspect: Float[Tensor, " batch"],
        pool: DigitPool,
        randomness: CounterRandom,
    ) -> Float[Tensor, "batch 3 size size"]:
        """Compose a batch of images, 0 to 1.

        Args:
            box: box of each digit, as in `Layouts`.
            label: class of each digit.
            aspect: width over height of the crop.
            pool: digits to paste.
            randomness: random numbers of these images, in their order.
        """
        around, strength = self._others(box, randomness)
        other = randomness.integer(self.others, 10)
        which = pool.pick(torch.cat([label, other], 1), randomness)  # (B, n)
        place = self._place(aspect, randomness)
        ink = self._pasted(torch.cat([box, around], 1), which, place, pool)  # (B, n, S, S)
        digits = label.shape[1]
        number = ink[:, :digits].amax(1)
        rest = (ink[:, digits:] * strength[:, :, None, None]).amax(1)
        return self._painted(torch.maximum(number, rest)[:, None], randomness)

    def _place(
        self, aspect: Float[Tensor, " batch"], randomness: CounterRandom
    ) -> Float[Tensor, "batch 6"]:
        """Return theta from image to crop."""
        x, y = randomness.uniform(2, -self.shift, self.shift).float().unbind(1)
        size = self.looseness / randomness.uniform(1, *self.scale).float()[:, 0]
        turn = math.radians(self.turn)
        angle = randomness.uniform(1, -turn, turn).float()[:, 0]
        cos, sin = size * angle.cos(), size * angle.sin()
        return torch.stack([cos, -sin / aspect, -size * x, sin * aspect, cos, -size * y], 1)

    def _pasted(
        self, box: Tensor, which: Tensor, place: Tensor, pool: DigitPool
    ) -> Float[Tensor, "batch n size size"]:
        """Draw each digit into its own image, filling its box."""
        inside = pool.ink[which].flatten(0, 1)  # (B*n, 4) as centre and half side
        centre = ((box[..., :2] + box[..., 2:]) / 2).flatten(0, 1)
        half = ((box[..., 2:] - box[..., :2]) / 2).flatten(0, 1)
        nowhere = centre.isnan()
        centre, half = centre.masked_fill(nowhere, 100.0), half.masked_fill(nowhere, 1.0)
        ratio = inside[:, 2:] / half
        (a, d), (x, y) = ratio.unbind(1), (inside[:, :2] - ratio * centre).unbind(1)
        zero = torch.zeros_like(a)
        theta = affine.compose(
            torch.stack([a, zero, x, zero, d, y], 1), place.repeat_interleave(box.shape[1], 0)
        )
        digits = pool.image[which.flatten()].float() / 255
        return sampling.bilinear(digits, affine.grid(theta, (self.size, self.size))).view(
            *which.shape, self.size, self.size
        )

    def _others(
        self, box: Tensor, randomness: CounterRandom
    ) -> tuple[Float[Tensor, "batch n 4"], Float[Tensor, "batch n"]]:
        """Return boxes and strength of other digits."""
        n = self.others
        side = randomness.integer(n, 4)
        along, apart, part, strength = (
            randomness.uniform(n, low, high).float()
            for low, high in ((-1.0, 1.0), (0.02, 0.5), (0.3, 0.65), (0.25, 0.6))
        )
        width, height = (box[..., 2:] - box[..., :2]).nanmean(1)[:, None].unbind(2)
        half = torch.stack([part * width, part * height], 2) / 2  # (B, n, 2)
        upright = (side < 2)[:, :, None]  # left or right of the number, else above or below
        off = (NUMBER + half + apart[:, :, None]) * torch.where(side % 2 == 0, 1, -1)[:, :, None]
        there = along[:, :, None] * self.looseness
        centre = torch.stack(
            [torch.where(upright, off, there)[..., 0], torch.where(upright, there, off)[..., 1]], 2
        )
        return torch.cat([centre - half, centre + half], 2), strength

    def _painted(
        self, ink: Float[Tensor, "batch 1 size size"], randomness: CounterRandom
    ) -> Float[Tensor, "batch 3 size size"]:
        """Paint ink on a background, and blur it."""
        grey, contrast, turn = (
            randomness.uniform(1, *range_).float()[:, :, None, None]
            for range_ in ((0.1, 0.9), (0.2, 0.6), (0.0, 2 * math.pi))
        )
        tint = randomness.uniform(6, -0.12, 0.12).float().view(-1, 2, 3, 1, 1)
        lighter = torch.where(grey < 0.5, 1.0, -1.0)
        coarse = randomness.uniform(3 * 16, -0.15, 0.15).float().view(-1, 3, 4, 4)
        fine = randomness.uniform(16 * 16, -0.12, 0.12).float().view(-1, 1, 16, 16)
        offset, height = (
            randomness.uniform(1, low, high).float()[:, :, None, None]
            for low, high in ((-0.9, 0.9), (-0.2, 0.2))
        )
        axis = lattice.axis(self.size, grey)
        edge = (
            torch.sigmoid(20 * (axis * turn.cos() + axis[:, None] * turn.sin() - offset)) * height
        )
        texture = [
            functional.interpolate(noise, self.size, mode="bilinear", align_corners=False)
            for noise in (coarse, fine)
        ]
        background = grey + tint[:, 0] + texture[0] + texture[1] + edge
        paint = grey + lighter * contrast + tint[:, 1] + texture[1] / 2
        sharp = background + ink * (paint - background)
        return _blurred(sharp, randomness.uniform(1, 0.3, 1.2).float()[:, 0]).clamp(0, 1)


def _ink(image: UInt8[Tensor, "images 1 side side"]) -> Float[Tensor, "images 4"]:
    """Return centre and half side of each image's ink."""
    n = image.shape[-1]
    dark = image[:, 0] > 64
    sides = []
    for columns in (dark.any(1), dark.any(2)):  # x, then y
        first, last = columns.byte().argmax(1), n - columns.flip(1).byte().argmax(1)  # (N,) each
        sides.append((2 * torch.stack([first, last], 1).float() / n - 1, columns.any(1)))
    low, high = (torch.stack([side[:, i] for side, _ in sides], 1) for i in range(2))
    blank = ~sides[0][1][:, None]
    return torch.cat(
        [((low + high) / 2).masked_fill(blank, 0), ((high - low) / 2).masked_fill(blank, 1)], 1
    )


def _blurred(
    image: Float[Tensor, "batch channels size size"], sigma: Float[Tensor, " batch"]
) -> Float[Tensor, "batch channels size size"]:
    """Blur each image by its own Gaussian."""
    reach = torch.arange(-3, 4, device=image.device)
    weight = torch.exp(-(reach**2) / (2 * sigma[:, None] ** 2))
    weight = (weight / weight.sum(1, keepdim=True))[:, :, None, None, None]  # (B, 7, 1, 1, 1)
    n = image.shape[-1]
    wide = functional.pad(image, (3, 3, 0, 0), mode="replicate")
    rows = sum((weight[:, i] * wide[..., i : i + n] for i in range(7)), torch.zeros_like(image))
    high = functional.pad(rows, (0, 0, 3, 3), mode="replicate")
    return sum((weight[:, i] * high[..., i : i + n, :] for i in range(7)), torch.zeros_like(image))

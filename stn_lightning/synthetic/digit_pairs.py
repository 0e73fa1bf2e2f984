"""Images of a red and a green digit.

The class of an image is the pair of digits. The digits are far apart, so a crop that is smaller
than their distance does not show both. With this data set one can show that transformers find parts
from class labels only.
"""

import torch
from torch import Tensor
from torch.nn import functional

from stn_lightning.batch import Split
from stn_lightning.datasets.digits import EmbeddedDigits
from stn_lightning.datasets.sources import Annotations, ImageTensorDataset, ImageTensorSource

KINDS = ((0, 1, 2), (7, 8, 9))
"""Digits of the first part, which is red, and of the second, which is green."""
DIGIT = 12
"""Side of a pasted digit, in pixels."""


class DigitPairs(ImageTensorSource):
    """Images of two digits in nine classes.

    They are composed of `EmbeddedDigits`, and always the same.

    Args:
        train_size: number of training images; there are an eighth as many validation images, and
            half as many test images.
        size: side of an image, in pixels.
        distance: smallest distance of the two digits' centres along x or y, in pixels.
    """

    class_names = tuple(f"{first}{second}" for first in KINDS[0] for second in KINDS[1])
    part_names = ("red", "green")

    def __init__(self, train_size: int = 4000, size: int = 40, distance: int = 16) -> None:
        self.size = size
        counts: dict[Split, int] = {"train": train_size, "val": train_size // 8}
        self.counts = {**counts, "test": train_size // 2}
        self.distance = distance

    def load(self, split: Split) -> ImageTensorDataset:
        digits = EmbeddedDigits().load(split)
        generator, centres = self._centres(split)
        n = len(centres)
        chosen = torch.randint(0, 3, (n, 2), generator=generator)
        image = torch.zeros(n, 3, self.size, self.size, dtype=torch.uint8)
        ink = digits.image[:, :, 4:24, 4:24].float()
        resized = functional.interpolate(ink, DIGIT, mode="bilinear", antialias=True)
        small = resized.round().byte()
        for part, kind in enumerate(KINDS):
            pools = [small[digits.label == digit][:, 0] for digit in kind]
            for i in range(n):
                pool = pools[int(chosen[i, part])]
                y, x = (centres[i, part] - DIGIT // 2).tolist()
                index = int(torch.randint(0, len(pool), (), generator=generator))
                image[i, part, y : y + DIGIT, x : x + DIGIT] = pool[index]
        return ImageTensorDataset(image, chosen[:, 0] * 3 + chosen[:, 1])

    def annotations(self, split: Split) -> Annotations:
        _, centres = self._centres(split)
        points = centres.flip(2).float() * 2 / self.size - 1
        parts = torch.cat([points, torch.ones(len(points), 2, 1)], dim=2)
        half = DIGIT / self.size
        boxes = torch.cat([points.amin(1) - half, points.amax(1) + half], dim=1)
        return Annotations(parts, boxes, torch.full((len(points), 2), self.size))

    def _centres(self, split: Split) -> tuple[torch.Generator, Tensor]:
        """Draw centres far enough apart, in pixels."""
        generator = torch.Generator().manual_seed({"train": 1, "val": 2, "test": 3}[split])
        half = DIGIT // 2
        drawn = torch.randint(
            half, self.size - half + 1, (16 * self.counts[split], 2, 2), generator=generator
        )
        apart = (drawn[:, 0] - drawn[:, 1]).abs().amax(1) >= self.distance
        return generator, drawn[apart][: self.counts[split]]

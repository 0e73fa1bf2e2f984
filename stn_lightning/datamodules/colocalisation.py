"""Images of one digit at different positions.

Reference:
    Jaderberg et al. 2015, appendix A.2.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from stn_lightning.batch import Batch, Split
from stn_lightning.datamodules.mnist import MNISTDataModule
from stn_lightning.datasets import ImageTensorDataset, ImageTensorSource
from stn_lightning.distortions import Cluttered, CounterRandom


class ColocalisationDataModule(MNISTDataModule):
    """Images of one class, at fixed positions in clutter.

    Training, validation and test have the same images, since there are no labels. The `box` of a
    batch is the frame of the digit, which is used for the score only.

    Args:
        source: data set of the digits; its training split is used.
        canvas: distortion that moves and clutters the digits; the paper's canvas is 84 x 84.
        digit: class of the images.
        num_images: number of images; 100 in the paper.
        batch_size: size of the global batch.
        seed: seed of the order in training.

    Raises:
        ValueError: the source has no such class, or, in `setup`, too few images of it.
    """

    def __init__(
        self,
        source: ImageTensorSource,
        canvas: Cluttered,
        digit: int,
        num_images: int = 100,
        batch_size: int = 100,
        seed: int = 0,
    ) -> None:
        super().__init__(source, canvas, batch_size, seed)
        if not 0 <= digit < len(source.class_names):
            raise ValueError(
                f"digit {digit} is no class of the source; give 0 to {len(source.class_names) - 1}"
            )
        self.canvas = canvas
        self.digit = digit
        self.num_images = num_images

    def load(self, split: Split) -> ImageTensorDataset:
        image, label = self.source.load("train")
        chosen = (label == self.digit).nonzero()[: self.num_images, 0]
        if len(chosen) < self.num_images:
            raise ValueError(
                f"num_images {self.num_images}: the source has {len(chosen)} images of digit "
                f"{self.digit}; give no more"
            )
        return ImageTensorDataset(image[chosen], label[chosen])

    def randomness(self, batch: Batch, part: int = 0) -> CounterRandom:
        """Return random numbers that do not depend on the epoch."""
        return super().randomness(batch._replace(split="test"), part)

    def transform_batch(self, batch: Batch) -> Batch:
        box = self.digit_boxes(self.randomness(batch))
        return super().transform_batch(batch)._replace(box=box)

    def digit_boxes(self, randomness: CounterRandom) -> Float[Tensor, "batch 4"]:
        """Return left, top, right, bottom of digits, -1 to 1."""
        corner = self.canvas.place(randomness).flip(1).float()  # (B, 2) as (x, y), in pixels
        corner = corner * (2 / self.canvas.size) - 1
        return torch.cat([corner, corner + 2 * self.canvas.digit / self.canvas.size], 1)

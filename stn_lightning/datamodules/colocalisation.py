"""Images of one digit at different places.

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
    """Images of one class, each at a frozen place.

    There may be clutter around them. Training, validation and test see the same images, as nothing
    is labelled. A batch's `box` is the frame of the digit; only the score reads it.

    Args:
        source: data set of the digits; its training split is taken.
        canvas: canvas that the digits are put on; the paper's has 84 pixels a side.
        digit: class of the images.
        num_images: number of images; 100 in the paper.
        batch_size: size of the global batch.
        seed: seed of the order in training.

    Raises:
        ValueError: if the source has no such class; in `setup`, if it has too few images of it.
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
        """Return random numbers that are always the same."""
        return super().randomness(batch._replace(split="test"), part)

    def transform_batch(self, batch: Batch) -> Batch:
        box = self.digit_boxes(self.randomness(batch))
        return super().transform_batch(batch)._replace(box=box)

    def digit_boxes(self, randomness: CounterRandom) -> Float[Tensor, "batch 4"]:
        """Return left, top, right and bottom of the digits.

        They go from -1 to 1 across the canvas.
        """
        corner = self.canvas.place(randomness).flip(1).float()  # (B, 2) as (x, y), in pixels
        corner = corner * (2 / self.canvas.size) - 1
        return torch.cat([corner, corner + 2 * self.canvas.digit / self.canvas.size], 1)

"""Pictures of one digit, each somewhere else, and where it is: known to the score alone.

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
    """The first pictures of one class, each put in its place once and for all, among scraps of the
    others or none.

    Training, validation and test see the same pictures, as nothing is labelled. A batch's `box` is
    the frame of the digit.

    Args:
        source: where the digits come from; its training split is taken.
        canvas: where they are put; the paper's has 84 pixels a side.
        digit: which class.
        num_images: how many; the paper has 100.
        batch_size: of the global batch.
        seed: of the order in training.

    Raises:
        ValueError: where the source has no such class, or too few pictures of it.
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
        self.pictures = num_images

    def load(self, split: Split) -> ImageTensorDataset:
        image, label = self.source.load("train")
        chosen = (label == self.digit).nonzero()[: self.pictures, 0]
        if len(chosen) < self.pictures:
            raise ValueError(
                f"the source has {len(chosen)} pictures of digit {self.digit}, not {self.pictures}; give fewer pictures"
            )
        return ImageTensorDataset(image[chosen], label[chosen])

    def randomness(self, batch: Batch, part: int = 0) -> CounterRandom:
        return super().randomness(
            batch._replace(split="test"), part
        )  # in each split and epoch the same

    def distorted(self, batch: Batch) -> Batch:
        return super().distorted(batch)._replace(box=self.box(self.randomness(batch)))

    def box(self, randomness: CounterRandom) -> Float[Tensor, "batch 4"]:
        """Left, top, right and bottom of the digits' frames."""
        corner = (
            self.canvas.place(randomness).flip(1).float() * (2 / self.canvas.size) - 1
        )  # (B, 2) as (x, y)
        return torch.cat([corner, corner + 2 * self.canvas.digit / self.canvas.size], 1)

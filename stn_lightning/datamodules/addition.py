"""Two digits, one channel each, and their sum.

Reference:
    Jaderberg et al. 2015, appendix A.1.
"""

import torch
from torch import Tensor

from stn_lightning.batch import Batch
from stn_lightning.datamodules.mnist import MNISTDataModule


class AdditionDataModule(MNISTDataModule):
    """Pairs of digits with their sum as label.

    Each image is paired with a random other one: in training with a new one in each epoch, in
    validation and test always with the same. The arguments are those of `MNISTDataModule`. The
    classes of the source must be the numbers from 0.
    """

    @property
    def class_names(self) -> tuple[str, ...]:
        return tuple(str(total) for total in range(2 * len(self.source.class_names) - 1))

    @property
    def image_shape(self) -> tuple[int, ...]:
        channels, *size = super().image_shape
        return (2 * channels, *size)

    def applied_theta(self, batch: Batch) -> Tensor | None:
        """Return None, as the two digits have different distortions."""
        return None

    def transform_batch(self, batch: Batch) -> Batch:
        randomness = self.randomness(batch, part=1)
        images = self.splits[batch.split]
        partner = randomness.integer(1, len(images.label))[:, 0]
        first = super().transform_batch(batch)
        partners = self.pool(batch.split, batch.image.device)[partner]
        second = self.distort(partners, batch.split, randomness)
        label = batch.label + images.label.to(partner.device)[partner]
        return first._replace(image=torch.cat([first.image, second], 1), label=label)

"""Two digits, one channel each, and their sum.

Reference:
    Jaderberg et al. 2015, appendix A.1.
"""

import torch

from stn_lightning.batch import Batch
from stn_lightning.datamodules.mnist import MNISTDataModule


class AdditionDataModule(MNISTDataModule):
    """Each picture of the source with another one drawn at random, each distorted on its own; the
    label is the sum of the two digits.

    In training every epoch draws new partners; validation and test pairs are frozen. Arguments as
    for `MNISTDataModule`; the classes of the source are the numbers from 0 on.
    """

    @property
    def class_names(self) -> tuple[str, ...]:
        return tuple(str(total) for total in range(2 * len(self.source.class_names) - 1))

    @property
    def image_shape(self) -> tuple[int, ...]:
        channels, *size = super().image_shape
        return (2 * channels, *size)

    def distorted(self, batch: Batch) -> Batch:
        numbers = self.randomness(batch, part=1)
        pictures = self.splits[batch.split]
        partner = numbers.integer(1, len(pictures.label))[:, 0]
        first = super().distorted(batch)
        second = self.distort(
            self.pool(batch.split, batch.image.device)[partner], batch.split, numbers
        )
        label = batch.label + pictures.label.to(partner.device)[partner]
        return first._replace(image=torch.cat([first.image, second], 1), label=label)

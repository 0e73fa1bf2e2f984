"""Digits in memory, distorted on the device."""

from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor

from stn_lightning.batch import Batch, Split
from stn_lightning.datamodules.base import BaseDataModule, BatchAnnotations
from stn_lightning.datamodules.batches import Draw, SplitBatches
from stn_lightning.datamodules.preprocessing import Preprocessing
from stn_lightning.datasets import Annotations, ImageTensorDataset, ImageTensorSource
from stn_lightning.distortions import (
    Augmented,
    CounterRandom,
    Distortion,
    RotatedScaledTranslated,
    WarpingDistortion,
)


class MNISTDataModule(BaseDataModule):
    """Images of digits, distorted anew in each epoch of training.

    Pixels are floats from 0 (background) to 1 (ink). They are not normalised, so that the zeros out
    of bounds have the colour of the background.

    Args:
        source: data set of the digits.
        distortion: distortion of the images; none when left out.
        batch_size: size of the global batch, which is divided among all processes; 256 in the
            paper.
        seed: seed of order and distortion in training; the command line sets it from
            `seed_everything`.
        train_size: use only the first so many training images; all when left out.
        curriculum: share of the epochs in which the distortions of training images grow to full
            strength, from the middle of their range outwards (`CounterRandom.spread`). With 0 they
            have full strength from the start, as validation and test images always have.
        val_draws: number of different distortions of each validation image. With a single one the
            choice of the best checkpoint can cost 0.1 points of test error on MNIST.
        augmentation: small warp of training images before their distortion, with one sampling for
            both; none when left out.

    Raises:
        ValueError: a number is out of its range, or there is an augmentation and the distortion is
            no warp; in `setup`, there is a curriculum and no `max_epochs`.

    Reference:
        Bengio et al. 2009, "Curriculum learning".

    Examples:
        >>> from stn_lightning.datasets import EmbeddedDigits
        >>> from stn_lightning.distortions import Rotated
        >>> data = MNISTDataModule(EmbeddedDigits(), Rotated(), batch_size=8)
        >>> data.setup("fit")
        >>> batch = data.transform_batch(next(iter(data.train_dataloader())))
        >>> batch.image.shape, data.image_shape
        (torch.Size([8, 1, 28, 28]), (1, 28, 28))
    """

    preprocessing = Preprocessing("fit", invert_light=True)

    def __init__(
        self,
        source: ImageTensorSource,
        distortion: Distortion | None = None,
        batch_size: int = 256,
        seed: int = 0,
        train_size: int | None = None,
        curriculum: float = 0.0,
        val_draws: int = 1,
        augmentation: WarpingDistortion | None = None,
    ) -> None:
        super().__init__(source, batch_size, seed)
        if not 0 <= curriculum <= 1:
            raise ValueError(f"curriculum {curriculum}; give a share of the training, 0 to 1")
        if train_size is not None and train_size < 1:
            raise ValueError(
                f"train_size {train_size}; give 1 or more, or leave it out to train on all images"
            )
        if val_draws < 1:
            raise ValueError(f"val_draws {val_draws}; give 1 or more")
        self.source: ImageTensorSource = source
        self.distortion = distortion
        self.train_size = train_size
        self.curriculum = curriculum
        self.val_draws = val_draws
        self.augmented = distortion
        if augmentation is not None:
            if not isinstance(distortion, WarpingDistortion):
                name = type(distortion).__name__
                raise ValueError(f"augmentation needs a distortion that is a warp, not {name}")
            self.augmented = Augmented(distortion, augmentation)
        self.growth_epochs = 0.0
        self.pools: dict[Split, Tensor] = {}
        self._annotations: dict[Split, Annotations | None] = {}

    @property
    def image_shape(self) -> tuple[int, ...]:
        channels, *size = next(iter(self.splits.values())).image.shape[1:]
        return (channels, *size) if self.distortion is None else (channels, *self.distortion.shape)

    def annotations(self, batch: Batch) -> BatchAnnotations | None:
        """Return annotations; None if images are distorted."""
        if self.distortion is not None:
            return None
        if batch.split not in self._annotations:
            self._annotations[batch.split] = self.source.annotations(batch.split)
        known = self._annotations[batch.split]
        if known is None:
            return None
        rows = batch.indices % len(self.splits[batch.split].label)
        parts, boxes = (values.to(rows.device)[rows] for values in (known.parts, known.boxes))
        return BatchAnnotations(parts, boxes, self.source.part_names, self.source.part_groups)

    def applied_theta(self, batch: Batch) -> Float[Tensor, "batch 6"] | None:
        if not isinstance(self.distortion, RotatedScaledTranslated):
            return None
        return self.distortion.theta(self.randomness(batch))

    def setup(self, stage: str) -> None:
        if stage == "fit" and self.curriculum:
            epochs = self.trainer.max_epochs if self.trainer else None
            if epochs is None or epochs < 0:
                raise ValueError(
                    "a curriculum takes a share of the epochs; give trainer.max_epochs, "
                    "or curriculum 0"
                )
            self.growth_epochs = self.curriculum * epochs
        super().setup(stage)

    def load(self, split: Split) -> ImageTensorDataset:
        images = self.source.load(split)
        kept = self.train_size if split == "train" else None
        return ImageTensorDataset(images.image[:kept], images.label[:kept])

    def dataset(self, split: Split) -> SplitBatches:
        image, label = self.splits[split]
        draws = self.val_draws if split == "val" else 1
        return SplitBatches(split, label, partial(_read, image), draws)

    def transform_batch(self, batch: Batch) -> Batch:
        image = self.distort(batch.image, batch.split, self.randomness(batch))
        return batch._replace(image=image)

    def distort(self, image: Tensor, split: Split, randomness: CounterRandom) -> Tensor:
        """Convert uint8 images to floats, 0 to 1; distort them."""
        image = image.float() / 255
        if self.distortion is None:
            return image
        pool = self.pool(split, image.device)
        distortion = self.augmented if split == "train" else self.distortion
        assert distortion is not None
        distorted: Tensor = distortion.to(image.device)(image, randomness, pool)
        return distorted

    def randomness(self, batch: Batch, part: int = 0) -> CounterRandom:
        """Return the random numbers of a batch.

        During the curriculum they are nearer to the middle of their range.
        """
        randomness = super().randomness(batch, part)
        if batch.split == "train" and self.growth_epochs:
            randomness.spread = min((batch.epoch + 1) / self.growth_epochs, 1.0)
        return randomness

    def pool(self, split: Split, device: torch.device) -> Tensor:
        """Return a split's images on a device."""
        pool = self.pools.get(split)
        if pool is None or pool.device != device:  # copy them once; MNIST has 43 MB
            pool = self.pools[split] = self.splits[split].image.to(device)
        return pool


def _read(image: Tensor, draw: Draw) -> Tensor:
    return image[draw.indices % len(image)]

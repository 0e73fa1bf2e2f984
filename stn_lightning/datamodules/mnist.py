"""Digits in memory, distorted on the device."""

import torch
from jaxtyping import UInt8
from torch import Tensor
from torch.utils.data import Dataset

from stn_lightning.batch import Batch, Split
from stn_lightning.datamodules.base import BaseDataModule
from stn_lightning.datamodules.batches import Draw
from stn_lightning.datamodules.preprocessing import (
    PreprocessedImage,
    fit_centre,
    is_light_background,
)
from stn_lightning.datasets import ImageTensorDataset, ImageTensorSource
from stn_lightning.distortions import CounterRandom, Distortion


class _InMemory(Dataset[Batch]):
    def __init__(self, pictures: ImageTensorDataset, split: Split) -> None:
        self.pictures = pictures
        self.split = split

    def __len__(self) -> int:
        return len(self.pictures.label)

    def __getitem__(self, draw: Draw) -> Batch:
        image, label = self.pictures.image[draw.indices], self.pictures.label[draw.indices]
        return Batch(image, label, draw.indices, draw.epoch, draw.share, self.split)


class MNISTDataModule(BaseDataModule):
    """Pictures of digits as floats from 0 (background) to 1 (ink), distorted anew in each epoch of
    training.

    No mean is subtracted, so background is exactly 0 and a transformer's zeros outside the image
    are background too.

    Args:
        source: where the digits come from.
        distortion: what happens to them; nothing when left out.
        batch_size: of the global batch, shared out among all processes; the paper's is 256.
        seed: of order and distortion in training; the command line sets it from `seed_everything`.
        train_size: how many of the training pictures to use, the first ones; all of them when left
            out. Validation and test stay whole.
        curriculum: part of the training's passes in which distortions grow to their full strength,
            from the middle of their range outwards (`CounterRandom.spread`); 0 is full strength
            from the start. Validation and test always have it.

    Raises:
        ValueError: where a number is out of its range; in `setup`, where there is a curriculum and
            no `max_epochs` to be a part of.

    Reference:
        Bengio et al. 2009, "Curriculum learning".
    """

    preprocess_summary = "shrunk into the middle where it was larger, light paper made dark"
    """What becomes of a picture from elsewhere, in words."""

    def __init__(
        self,
        source: ImageTensorSource,
        distortion: Distortion | None = None,
        batch_size: int = 256,
        seed: int = 0,
        train_size: int | None = None,
        curriculum: float = 0.0,
    ) -> None:
        super().__init__(batch_size, seed)
        if not 0 <= curriculum <= 1:
            raise ValueError(
                f"curriculum {curriculum} is a part of the training; give 0 <= curriculum <= 1"
            )
        if train_size is not None and train_size < 1:
            raise ValueError(
                f"train_pictures {train_size}; give 1 or more, or leave it out to train on all"
            )
        self.source = source
        self.distortion = distortion
        self.train_pictures = train_size
        self.curriculum = curriculum
        self.growing = 0.0  # passes in which distortions grow
        self.pools: dict[Split, Tensor] = {}

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes."""
        return self.source.class_names

    @property
    def part_names(self) -> tuple[str, ...]:
        """Of what `parts` finds; empty where nothing is marked, or a distortion moves it."""
        return self.source.part_names if self.distortion is None else ()

    def parts(self, batch: Batch) -> Tensor:
        """(x, y, visible) of each marked part, -1 to 1 across the picture, (batch, parts, 3); for
        scoring.
        """
        return self.source.parts(batch.split).to(batch.indices.device)[batch.indices]

    @property
    def image_shape(self) -> tuple[int, ...]:
        """(channels, height, width), or (channels, depth, height, width), of what a task gets."""
        channels, *size = next(iter(self.splits.values())).image.shape[1:]
        return (channels, *size) if self.distortion is None else (channels, *self.distortion.shape)

    def prepare_data(self) -> None:
        self.source.prepare()

    def setup(self, stage: str) -> None:
        if stage == "fit" and self.curriculum:
            passes = self.trainer.max_epochs if self.trainer else None
            if passes is None or passes < 0:
                raise ValueError(
                    "a curriculum is a part of the training's passes; give trainer.max_epochs, or curriculum 0"
                )
            self.growing = self.curriculum * passes
        super().setup(stage)

    def load(self, split: Split) -> ImageTensorDataset:
        pictures = self.source.load(split)
        kept = self.train_pictures if split == "train" else None
        return ImageTensorDataset(pictures.image[:kept], pictures.label[:kept])

    def dataset(self, split: Split) -> Dataset[Batch]:
        return _InMemory(self.splits[split], split)

    def preprocess(
        self, picture: UInt8[Tensor, "3 rows columns"], shape: tuple[int, int, int]
    ) -> PreprocessedImage:
        """A picture from elsewhere as the task gets it: ink light, background 0, shrunk into the
        middle where it is larger.

        Args:
            picture: of one digit; dark ink on light paper is inverted.
            shape: of the image.
        """
        return fit_centre(255 - picture if is_light_background(picture) else picture, shape)

    def distorted(self, batch: Batch) -> Batch:
        return batch._replace(image=self.distort(batch.image, batch.split, self.randomness(batch)))

    def distort(self, image: Tensor, split: Split, randomness: CounterRandom) -> Tensor:
        """Pictures of a split, as floats and distorted."""
        image = image.float() / 255
        return (
            image
            if self.distortion is None
            else self.distortion.to(image.device)(image, randomness, self.pool(split, image.device))
        )

    def randomness(self, batch: Batch, part: int = 0) -> CounterRandom:
        """As everywhere; nearer the middle of its range while the curriculum lasts."""
        numbers = super().randomness(batch, part)
        if batch.split == "train" and self.growing:
            numbers.spread = min((batch.epoch + 1) / self.growing, 1.0)
        return numbers

    def pool(self, split: Split, device: torch.device) -> Tensor:
        """All pictures of a split."""
        pool = self.pools.get(split)
        if pool is None or pool.device != device:  # once, not for every batch: 43 MB for MNIST
            pool = self.pools[split] = self.splits[split].image.to(device)
        return pool

"""Crops of images in files."""

from functools import partial

import torch
from jaxtyping import Bool, Float, Float64
from torch import Tensor

from stn_lightning.batch import Batch, Split
from stn_lightning.datamodules.base import STREAMS, BaseDataModule, BatchAnnotations
from stn_lightning.datamodules.batches import Draw, SplitBatches
from stn_lightning.datamodules.preprocessing import Preprocessing
from stn_lightning.datasets import Annotations, ImageFileDataset, ImageFileSource
from stn_lightning.distortions import CounterRandom


def _read(images: ImageFileDataset, split: Split, size: int, seed: int, draw: Draw) -> Tensor:
    """Read crops as uint8, not yet mirrored."""
    pixels = torch.empty(len(draw.indices), size, size, 3, dtype=torch.uint8)
    positions, _ = crop_positions(split, draw, seed)
    crops = zip(pixels.numpy(), draw.indices.tolist(), positions.tolist(), strict=True)
    for crop, index, (down, right) in crops:
        image = images.image[index]
        top = int(down * (image.shape[0] - size + 1))
        left = int(right * (image.shape[1] - size + 1))
        crop[...] = image[top : top + size, left : left + size]
    return pixels.permute(0, 3, 1, 2)


def crop_positions(
    split: Split, draw: Draw | Batch, seed: int
) -> tuple[Float64[Tensor, "batch 2"], Bool[Tensor, " batch"]]:
    """Draw positions of crops, and whether they are mirrored.

    In training both are functions of (seed, epoch, index). Otherwise crops are central and not
    mirrored.

    Returns:
        (down, right) from 0 to 1, where 1 is as far as the image allows; and whether it is
        mirrored.
    """
    if split != "train":
        position = torch.full((len(draw.indices), 2), 0.5, dtype=torch.float64)
        mirrored = torch.zeros_like(draw.indices, dtype=torch.bool)
        return position.to(draw.indices.device), mirrored
    drawn = CounterRandom(seed, STREAMS["train"], draw.epoch, draw.indices).uniform(3, 0.0, 1.0)
    return drawn[:, :2], drawn[:, 2] < 0.5


class ImageDataModule(BaseDataModule):
    """Square crops of images in files.

    In training, crops are random and half of them are mirrored; otherwise they are central. Pixels
    are floats from 0 to 1 and not normalised: a feature extractor normalises them as its weights
    require.

    Args:
        source: data set of the images; its `side` must be at least `size`.
        size: side of the crops, in pixels; 224 or 448 in the paper.
        batch_size: size of the global batch, which is divided among all processes.
        num_workers: number of processes that read batches in advance; 0 reads them in the training
            process, which is enough for cached images.
        seed: seed of order and crops in training; the command line sets it from `seed_everything`.

    Raises:
        ValueError: `size` is larger than the source's images, or a number is out of its range.
    """

    lists_files = True

    def __init__(
        self,
        source: ImageFileSource,
        size: int = 224,
        batch_size: int = 32,
        num_workers: int = 0,
        seed: int = 0,
    ) -> None:
        super().__init__(source, batch_size, seed, num_workers)
        if not 1 <= size <= source.side:
            raise ValueError(
                f"size {size}; give 1 to {source.side}, the smallest side of the source's images"
            )
        self.source: ImageFileSource = source
        self.size = size
        self._class_names: tuple[str, ...] = ()
        self._annotations: dict[Split, Annotations | None] = {}

    @property
    def class_names(self) -> tuple[str, ...]:
        if not self._class_names:  # kept, as the source reads a file or lists folders for them
            self._class_names = self.source.class_names
        return self._class_names

    @property
    def background(self) -> tuple[int, int, int]:
        return self.source.background

    @property
    def image_shape(self) -> tuple[int, int, int]:
        return 3, self.size, self.size

    def load(self, split: Split) -> ImageFileDataset:
        return self.source.load(split)

    def dataset(self, split: Split) -> SplitBatches:
        images = self.splits[split]
        read = partial(_read, images, split, self.size, self.seed)
        return SplitBatches(split, images.label, read)

    @property
    def preprocessing(self) -> Preprocessing:
        """Resize the smallest side, then crop the middle."""
        return Preprocessing("crop", side=self.source.side)

    def transform_batch(self, batch: Batch) -> Batch:
        """Mirror half of the training images; return floats."""
        image = batch.image
        if batch.split == "train":
            _, mirrored = crop_positions(batch.split, batch, self.seed)
            image = torch.where(mirrored[:, None, None, None], image.flip(3), image)
        return batch._replace(image=image.float() / 255)

    def annotations(self, batch: Batch) -> BatchAnnotations | None:
        """Return parts and boxes in the coordinates of the crops.

        Parts outside of a crop count as not visible. Mirroring does not exchange left and right
        parts.
        """
        if batch.split not in self._annotations:
            self._annotations[batch.split] = self.source.annotations(batch.split)
        known = self._annotations[batch.split]
        if known is None:
            return None
        rows, device = batch.indices.cpu(), batch.indices.device
        size = known.size[rows].to(device)
        parts = known.parts[rows].to(device)
        points = self._in_crop(parts[..., :2], size, batch)
        visible = parts[..., 2] * (points.abs() <= 1).all(-1)
        parts = torch.cat([points, visible[..., None]], dim=-1)
        corners = known.boxes[rows].to(device).unflatten(1, (2, 2))
        corners = self._in_crop(corners, size, batch)
        boxes = torch.cat([corners.amin(1), corners.amax(1)], dim=1)
        return BatchAnnotations(parts, boxes, self.source.part_names, self.source.part_groups)

    def _in_crop(
        self, points: Float[Tensor, "batch n 2"], size: Tensor, batch: Batch
    ) -> Float[Tensor, "batch n 2"]:
        """Convert points from coordinates of the image to the crop's."""
        position, mirrored = crop_positions(batch.split, batch, self.seed)
        corner = (position * (size - self.size + 1)).floor()  # (B, 2): top and left, in pixels
        pixels = (points + 1) / 2 * size.flip(1)[:, None] - corner.flip(1)[:, None].to(points.dtype)
        moved = pixels * 2 / self.size - 1
        return torch.where(mirrored[:, None, None], moved * moved.new_tensor([-1.0, 1.0]), moved)

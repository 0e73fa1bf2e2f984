"""Photographs: a random crop to learn from, the middle to be judged by."""

import torch
from jaxtyping import Bool, Float, Float32, Float64, UInt8
from torch import Tensor
from torch.utils.data import Dataset

from stn_lightning.batch import Batch, Split
from stn_lightning.datamodules.base import STREAMS, BaseDataModule
from stn_lightning.datamodules.batches import Draw
from stn_lightning.datamodules.preprocessing import PreprocessedImage, centre_crop
from stn_lightning.datasets import Annotations, ImageFileDataset, ImageFileSource
from stn_lightning.datasets.image_files import resize_smallest_side
from stn_lightning.distortions import CounterRandom


class _Crops(Dataset[Batch]):
    """Batches of crops of one size, uint8, not yet mirrored."""

    def __init__(self, pictures: ImageFileDataset, split: Split, size: int, seed: int) -> None:
        self.pictures, self.split, self.size, self.seed = pictures, split, size, seed

    def __len__(self) -> int:
        return len(self.pictures.label)

    def __getitem__(self, draw: Draw) -> Batch:
        label = self.pictures.label[draw.indices]
        image = torch.empty(len(label), self.size, self.size, 3, dtype=torch.uint8)
        batch = Batch(
            image.permute(0, 3, 1, 2), label, draw.indices, draw.epoch, draw.share, self.split
        )
        place, _ = crop_positions(batch, self.seed)
        crops = image.numpy()
        for crop, index, (down, right) in zip(
            crops, draw.indices.tolist(), place.tolist(), strict=True
        ):
            picture = self.pictures.image[index]
            top, left = (
                int(down * (picture.shape[0] - self.size + 1)),
                int(right * (picture.shape[1] - self.size + 1)),
            )
            crop[...] = picture[top : top + self.size, left : left + self.size]
        return batch


def crop_positions(
    batch: Batch, seed: int
) -> tuple[Float64[Tensor, "batch 2"], Bool[Tensor, " batch"]]:
    """How far down and to the right each crop lies, 0 to 1, and whether it is mirrored: by (seed,
    epoch, index) in training, else never.
    """
    if batch.split != "train":
        centre_crop = torch.full(
            (len(batch.indices), 2), 0.5, dtype=torch.float64, device=batch.indices.device
        )
        return centre_crop, torch.zeros_like(batch.indices, dtype=torch.bool)
    drawn = CounterRandom(seed, STREAMS["train"], batch.epoch, batch.indices).uniform(3, 0.0, 1.0)
    return drawn[:, :2], drawn[:, 2] < 0.5


class ImageDataModule(BaseDataModule):
    """Square crops of photographs as floats from 0 to 1: anywhere and mirrored half of the time in
    training, else from the middle.

    Nothing is subtracted here: a trunk with pre-trained weights brings the normalisation that
    belongs to them, and a sampler's padding is a colour as people mean it.

    Args:
        source: where the photographs come from; their smallest side there is at least `size`.
        size: side of the crops, in pixels; the paper's are 224 and 448.
        batch_size: of the global batch, shared out among all processes.
        num_workers: processes that read ahead; 0 reads in the training process, which is enough for
            cached pictures.
        seed: of order and crops in training; the command line sets it from `seed_everything`.
    """

    preprocess_summary = "the middle of what was shrunk"
    """What becomes of a picture from elsewhere, in words."""

    def __init__(
        self,
        source: ImageFileSource,
        size: int = 224,
        batch_size: int = 32,
        num_workers: int = 0,
        seed: int = 0,
    ) -> None:
        super().__init__(batch_size, seed, num_workers)
        if not 1 <= size <= source.side:
            raise ValueError(
                f"size {size}; give 1 to {source.side}, the smallest side of the source's pictures"
            )
        self.source, self.size = source, size
        self.annotations: dict[Split, Annotations] = {}

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes."""
        return self.source.class_names

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(channels, height, width) of what a task gets."""
        return 3, self.size, self.size

    @property
    def part_names(self) -> tuple[str, ...]:
        """Of what `parts` finds; empty where nothing is marked."""
        return self.source.part_names

    def prepare_data(self) -> None:
        self.source.prepare()

    def load(self, split: Split) -> ImageFileDataset:
        return self.source.load(split)

    def dataset(self, split: Split) -> Dataset[Batch]:
        return _Crops(self.splits[split], split, self.size, self.seed)

    def preprocess(
        self, picture: UInt8[Tensor, "3 rows columns"], shape: tuple[int, int, int]
    ) -> PreprocessedImage:
        """A picture from elsewhere as the task gets it: its smallest side brought to the source's,
        the square in its middle.

        Args:
            picture: in colour.
            shape: of the image.
        """
        small = resize_smallest_side(picture.permute(1, 2, 0).numpy(), self.source.side)
        return centre_crop(picture, torch.from_numpy(small).permute(2, 0, 1), shape[1])

    def distorted(self, batch: Batch) -> Batch:
        """The batch with its pictures as floats, mirrored or not."""
        _, mirror = crop_positions(batch, self.seed)
        image = (
            torch.where(mirror[:, None, None, None], batch.image.flip(3), batch.image)
            if batch.split == "train"
            else batch.image
        )
        return batch._replace(image=image.float() / 255)

    def parts(self, batch: Batch) -> Float32[Tensor, "batch parts 3"]:
        """(x, y, visible) of each marked part, -1 to 1 across the picture that the task gets; not
        visible where it is cut off.

        For scoring: batches do not hold it. A mirrored bird's left eye is still called so.
        """
        marks = self._marks(batch.split)
        chosen = marks.parts[batch.indices.cpu()].to(batch.indices.device)
        moved = self._in_crop(chosen[..., :2], batch)
        visible = chosen[..., 2] * (moved.abs() <= 1).all(-1)
        return torch.cat([moved, visible[..., None]], dim=-1)

    def boxes(self, batch: Batch) -> Float32[Tensor, "batch 4"]:
        """Left, top, right, bottom of each marked thing, -1 to 1 across the picture that the task
        gets; for scoring.
        """
        marked = self._marks(batch.split).boxes[batch.indices.cpu()].to(batch.indices.device)
        corners = self._in_crop(marked.unflatten(1, (2, 2)), batch)
        return torch.cat([corners.amin(1), corners.amax(1)], dim=1)

    def _marks(self, split: Split) -> Annotations:
        if split not in self.annotations:
            self.annotations[split] = self.source.places(split)
        return self.annotations[split]

    def _in_crop(
        self, points: Float[Tensor, "batch n 2"], batch: Batch
    ) -> Float[Tensor, "batch n 2"]:
        """From the whole photograph's coordinates to the crop's."""
        place, mirror = crop_positions(batch, self.seed)
        size = (
            self._marks(batch.split).size[batch.indices.cpu()].to(points.device)
        )  # (B, 2), height and width
        first = (place * (size - self.size + 1)).floor()  # top and left, in pixels
        pixels = (points + 1) / 2 * size.flip(1)[:, None] - first.flip(1)[:, None].to(points.dtype)
        moved = pixels * 2 / self.size - 1
        return torch.where(mirror[:, None, None], moved * moved.new_tensor([-1.0, 1.0]), moved)

"""Predict images in files, with the outlines of their crops."""

import glob
import itertools
import os
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor

from stn_lightning.datamodules.base import BaseDataModule
from stn_lightning.datamodules.preprocessing import PreprocessedImage
from stn_lightning.datasets.decoding import SUFFIXES, decode
from stn_lightning.geometry import overlap
from stn_lightning.runs.loading import TrainedNetwork
from stn_lightning.runtime.lists import first_few
from stn_lightning.transformers import WarpRecord

BATCH = 64
CORNERS = ("top_left", "top_right", "bottom_right", "bottom_left")
"""Corners of the crop itself: the top left corner of a crop that is rotated by 180 degrees is at
the bottom right in the image.
"""


class CropOutline(NamedTuple):
    """The outline of one transformer's crop."""

    theta: list[float]
    outline: Float[Tensor, "points 2"]
    """(x, y) in pixels of the upright image, clockwise from the crop's upper left"""
    corners: list[list[float]]
    """(x, y) of each of CORNERS, in the same pixels"""
    crop: Float[Tensor, "channels height width"]

    def draw(self) -> Image.Image:
        """Draw the crop in its own size.

        If it has values outside of 0 to 1, all values are rescaled.
        """
        values = self.crop - self.crop.min().clamp(max=0)
        levels = (values / values.max().clamp(min=1) * 255).round().byte().expand(3, -1, -1)
        return Image.fromarray(levels.permute(1, 2, 0).contiguous().numpy())


class Prediction(NamedTuple):
    """The network's prediction for one image."""

    file: Path
    label: str
    probability: float
    probabilities: Float[Tensor, "*digits classes"]
    crops: list[CropOutline]
    """Crop of each parallel transformer; empty if there is none."""
    class_names: tuple[str, ...]

    def best(self, n: int) -> list[tuple[str, float]]:
        """Return the `n` most probable classes with their probabilities.

        For a sequence of digits only the most probable number is returned.
        """
        if self.probabilities.dim() > 1:
            return [(self.label, self.probability)]
        values, indices = self.probabilities.topk(min(n, len(self.probabilities)))
        names = [self.class_names[i] for i in indices.tolist()]
        return list(zip(names, values.tolist(), strict=True))


class Unreadable(NamedTuple):
    """A file without a prediction."""

    file: Path
    reason: str
    """a line that names the file"""


def predict_all(network: TrainedNetwork, paths: Iterable[str | Path]) -> list[Prediction]:
    """Return the prediction for each image.

    Raises:
        ValueError: a path does not exist, or files cannot be read; the message names the first.
    """
    answers = list(predictions(network, find_images(paths)))
    if bad := [answer.reason for answer in answers if isinstance(answer, Unreadable)]:
        raise ValueError("\n".join(first_few(bad)))
    return [answer for answer in answers if isinstance(answer, Prediction)]


def find_images(paths: Iterable[str | Path]) -> Iterator[Path]:
    """Yield the files that paths, folders and patterns stand for.

    For a folder they are all image files in it and below it, in the order of their names. A file
    that is named may have any suffix.

    Raises:
        ValueError: a path does not exist, or a pattern fits no file.
    """
    for path in map(str, paths):
        found = [path] if Path(path).exists() else sorted(glob.glob(path, recursive=True))  # noqa: PTH207  # Path's takes no absolute pattern
        if not found:
            raise ValueError(f"{path}: there is no such file, folder or pattern")
        for each in found:
            yield from _files_below(each) if Path(each).is_dir() else [Path(each)]


def _files_below(folder: str) -> Iterator[Path]:
    for root, folders, names in os.walk(folder):
        folders.sort()
        yield from (
            Path(root, name) for name in sorted(names) if Path(name).suffix.lower() in SUFFIXES
        )


def predictions(
    network: TrainedNetwork, files: Iterable[Path]
) -> Iterator[Prediction | Unreadable]:
    """Yield a prediction for each file, in order.

    While the network computes a batch, the next one is read; two are in memory at most.

    Raises:
        ValueError: the network does not take images with 1 or 3 channels.
    """
    shape = network.flat_shape
    files = iter(files)
    batches = iter(lambda: list(itertools.islice(files, BATCH)), [])
    with ThreadPoolExecutor(2) as threads:
        pending = threads.map(lambda file: _read(network.data, shape, file), next(batches, []))
        while items := list(pending):
            pending = threads.map(lambda file: _read(network.data, shape, file), next(batches, []))
            answers = _answer(network, [item for item in items if not isinstance(item, Unreadable)])
            yield from (item if isinstance(item, Unreadable) else next(answers) for item in items)


def read_pixels(data: BaseDataModule, file: Path) -> UInt8[Tensor, "3 height width"]:
    """Return the upright image in a file.

    Raises:
        ValueError: it cannot be read; the message names the file.
    """
    return torch.from_numpy(decode(file, data.background).copy()).permute(2, 0, 1)


def _read(
    data: BaseDataModule, shape: tuple[int, int, int], file: Path
) -> tuple[Path, PreprocessedImage] | Unreadable:
    try:
        return file, data.preprocess(read_pixels(data, file), shape)
    except (ValueError, OSError) as problem:
        return Unreadable(file, str(problem))


def _answer(
    network: TrainedNetwork, images: list[tuple[Path, PreprocessedImage]]
) -> Iterator[Prediction | Unreadable]:
    if not images:
        return
    logits, record = network.infer(torch.stack([each.image for _, each in images]))
    logits = logits.float().cpu()
    # NaN, which `predictions` would raise an error for, is reported for each file below
    labels = network.task.predictions(logits.nan_to_num(), network.class_names)
    crops = (
        crop_outlines(record, [each for _, each in images])
        if record is not None
        else itertools.repeat([])
    )
    for (file, _), values, (label, probability), outlines in zip(
        images, logits, labels, crops, strict=False
    ):
        if values.isfinite().all():
            probabilities = values.softmax(-1)
            names = network.class_names
            yield Prediction(file, label, probability, probabilities, outlines, names)
        else:
            yield Unreadable(file, f"{file}: the network's logits are NaN or infinite")


def predict_tensor(
    network: TrainedNetwork, file: Path, image: PreprocessedImage
) -> Prediction | Unreadable:
    """Return the prediction for an image that is preprocessed already.

    Args:
        network: trained network.
        file: name of the image, for the result.
        image: preprocessed image.
    """
    return next(_answer(network, [(file, image)]))


def crop_outlines(
    record: WarpRecord, images: list[PreprocessedImage]
) -> Iterator[list[CropOutline]]:
    """Yield the outlines of each image's crops."""
    grids = record.grids.float().cpu()  # (batch, n, height, width, 2)
    height, width = grids.shape[2:4]
    rims = overlap.outline(grids.flatten(0, 1)).unflatten(0, grids.shape[:2])
    corners = [0, width - 1, width + height - 2, 2 * width + height - 3]
    crops = record.crops.float().cpu()
    for image, thetas, rim, crop in zip(images, record.thetas.tolist(), rims, crops, strict=True):
        outlines = image.to_original(rim)  # (n, points, 2)
        places = outlines[:, corners].tolist()
        yield [CropOutline(*parts) for parts in zip(thetas, outlines, places, crop, strict=True)]

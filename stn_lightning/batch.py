"""Batches: what a loader yields and a task takes."""

from typing import Literal, NamedTuple

from torch import Tensor

Split = Literal["train", "val", "test"]


class Batch(NamedTuple):
    """Images with their labels, and all that makes them reproducible."""

    image: Tensor
    """(batch, channels, height, width)"""
    label: Tensor
    """(batch,), or (batch, digits) where an image has several"""
    indices: Tensor
    """(batch,), the index of each image in its split"""
    epoch: int
    """epoch of the training; validation and test images are frozen whatever it is"""
    share: float
    """images of this process times the number of processes, over all images of the global batch: 1
    except where they do not divide
    """
    split: Split
    box: Tensor | None = None
    """(batch, 4), left, top, right and bottom of the object, -1 to 1 across the image; None where
    it is not known
    """

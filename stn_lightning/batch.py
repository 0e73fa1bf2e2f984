"""Batches: what a loader yields and a task takes."""

from typing import Literal, NamedTuple

from torch import Tensor

Split = Literal["train", "val", "test"]


class Batch(NamedTuple):
    """Images with their labels, indices and epoch."""

    image: Tensor
    """(batch, channels, height, width)"""
    label: Tensor
    """(batch,), or (batch, digits) where an image has several"""
    indices: Tensor
    """(batch,), the index of each image in its split"""
    epoch: int
    """epoch of the training, from 0; validation and test images do not depend on it"""
    share: float
    """(images of this process) x (number of processes) / (images of the global batch). It is 1
    unless the number of processes does not divide the global batch.
    """
    split: Split
    box: Tensor | None = None
    """(batch, 4): left, top, right and bottom of the object, from -1 to 1 across the image; None
    if there are no boxes
    """

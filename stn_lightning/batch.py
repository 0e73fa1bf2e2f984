"""What a loader yields and a task gets."""

from typing import Literal, NamedTuple

from torch import Tensor

Split = Literal["train", "val", "test"]


class Batch(NamedTuple):
    """Pictures with their labels, and what makes them reproducible."""

    image: Tensor
    """(batch, channels, height, width)"""
    label: Tensor
    """(batch,), or (batch, digits) where a picture has several"""
    indices: Tensor
    """(batch,), of each picture in its split"""
    epoch: int
    """of the training; validation and test pictures are frozen, whatever it says"""
    share: float
    """this process's pictures times the number of processes over all pictures of the global batch:
    1 but for uneven ends
    """
    split: Split
    box: Tensor | None = None
    """(batch, 4), left, top, right and bottom of what is to be found, -1 to 1 across the picture,
    where that is known; for scoring
    """

"""Base classes of data sets."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from jaxtyping import Float32, Int64, UInt8
from torch import Tensor

from stn_lightning.batch import Split

SPLITS: tuple[Split, ...] = ("train", "val", "test")


class Annotations(NamedTuple):
    """Annotated parts and boxes of a split.

    They are used to score crops only, and are not given to tasks.
    """

    parts: Float32[Tensor, "images parts 3"]
    """x, y from -1 to 1 across the whole image, and 1 where the part is visible, else 0"""
    boxes: Float32[Tensor, "images 4"]
    """left, top, right, bottom of the object, from -1 to 1"""
    size: Int64[Tensor, "images 2"]
    """height and width of the images as they are read, in pixels"""


class ImageTensorDataset(NamedTuple):
    """All images of a split in one tensor."""

    image: UInt8[Tensor, "images channels height width"]
    label: Int64[Tensor, " images"]


class Source(ABC):
    """A data set, for `stn prepare` and data modules."""

    class_names: tuple[str, ...]
    """Names of the classes, in the order of their labels."""
    part_names: tuple[str, ...] = ()
    """Names of the annotated parts."""
    empty_split_advice = "check the data folder"
    """What to do if a split has no images, for messages."""
    part_groups: Mapping[str, tuple[str, ...]] = MappingProxyType({})
    """Names of the parts in each group of parts that are scored together."""
    class_groups: tuple[str, ...] = ()
    """Name of each class's group, for example the genus of a species; empty without groups."""

    def prepare(self) -> None:  # noqa: B027  # optional
        """Download or create missing files, once per machine."""

    @abstractmethod
    def load(self, split: Split) -> Any:
        """Load a split, with each image's `label`.

        The three splits are disjoint and always the same.
        """

    def annotations(self, split: Split) -> Annotations | None:
        """Return a split's annotations, or None."""
        return None

    def check(self) -> str:
        """Check all files; describe the data set in a line.

        Raises:
            ValueError: with a line for each fault.
        """
        sizes = {split: len(self.load(split).label) for split in SPLITS}
        for split, size in sizes.items():
            self.refuse_empty(split, size)
        return ", ".join(f"{split} {size:,}" for split, size in sizes.items())

    def refuse_empty(self, split: Split, size: int) -> None:
        """Raise an error if a split is empty.

        Raises:
            ValueError: names split and data set, and says what to do.
        """
        if not size:
            raise ValueError(
                f"the {split} split of {type(self).__name__} has no images; "
                f"{self.empty_split_advice}"
            )


class ImageTensorSource(Source):
    """A data set that fits into memory."""

    @abstractmethod
    def load(self, split: Split) -> ImageTensorDataset: ...

"""Data sets, as data modules see them."""

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

    For scoring where a network looks. They are never handed to a task.
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
    """What to do about a split without images, for messages."""
    part_groups: Mapping[str, tuple[str, ...]] = MappingProxyType({})
    """Groups of parts that are scored together, by name."""
    class_groups: tuple[str, ...] = ()
    """For each class the name of a kind that it belongs to; none where there are no kinds."""

    def prepare(self) -> None:  # noqa: B027  # many have nothing to bring
        """Download or make what is missing, once per machine."""

    @abstractmethod
    def load(self, split: Split) -> Any:
        """Load a split, with a `label` for each image.

        The three splits are disjoint and always the same.
        """

    def annotations(self, split: Split) -> Annotations | None:
        """Return a split's annotations, or None."""
        return None

    def check(self) -> str:
        """Read everything there is, and describe it in one line.

        Raises:
            ValueError: with a line for each thing that is wrong.
        """
        sizes = {split: len(self.load(split).label) for split in SPLITS}
        for split, size in sizes.items():
            self.refuse_empty(split, size)
        return ", ".join(f"{split} {size:,}" for split, size in sizes.items())

    def refuse_empty(self, split: Split, size: int) -> None:
        """Check that a split of `size` images has some.

        Raises:
            ValueError: with the names of split and data set, and what to do.
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

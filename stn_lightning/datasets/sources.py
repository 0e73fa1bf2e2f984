"""Pictures in memory, and where they come from."""

from abc import ABC, abstractmethod
from typing import Any, NamedTuple

from jaxtyping import Float32, Int64, UInt8
from torch import Tensor

from stn_lightning.batch import Split


class ImageTensorDataset(NamedTuple):
    """All pictures of a split in one tensor: a batch is one gather."""

    image: UInt8[Tensor, "pictures channels height width"]
    label: Int64[Tensor, " pictures"]


class Source(ABC):
    """A data set: what `stn prepare` brings here and checks, and a data module reads."""

    class_names: tuple[str, ...]
    """Names of the classes, in the order of their labels."""
    part_names: tuple[str, ...] = ()
    """Of parts whose places are known, for scoring where a network looks."""

    def prepare(self) -> None:  # noqa: B027  # many have nothing to bring
        """Bring the files here, where they are missing. Runs in one process of each machine."""

    @abstractmethod
    def load(self, split: Split) -> Any:
        """One split, with a `label` for each picture. The three are disjoint and always the same."""

    def check(self) -> str:
        """Read everything there is, and say in a line what it comes to.

        Raises:
            ValueError: a line for each thing that is wrong.
        """
        splits: tuple[Split, ...] = ("train", "val", "test")
        return ", ".join(f"{split} {len(self.load(split).label):,}" for split in splits)


class ImageTensorSource(Source):
    """A data set that fits into memory."""

    @abstractmethod
    def load(self, split: Split) -> ImageTensorDataset: ...

    def parts(self, split: Split) -> Float32[Tensor, "pictures parts 3"]:
        """(x, y, visible) of each part, -1 to 1 across the picture, for a source with `part_names`."""
        raise ValueError(f"{type(self).__name__} has no parts marked")

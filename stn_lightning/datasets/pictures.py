"""Pictures in memory, and where they come from."""

from abc import ABC, abstractmethod
from typing import NamedTuple

from jaxtyping import Int64, UInt8
from torch import Tensor

from stn_lightning.batch import Split


class Pictures(NamedTuple):
    """All pictures of a split in one tensor: a batch is one gather."""

    image: UInt8[Tensor, "pictures channels height width"]
    label: Int64[Tensor, " pictures"]


class PictureSource(ABC):
    """A data set that fits into memory."""

    classes: tuple[str, ...]
    """Names of the classes, in the order of their labels."""

    def prepare(self) -> None:  # noqa: B027  # many have nothing to bring
        """Bring the files here, where they are missing. Runs in one process of each machine."""

    @abstractmethod
    def load(self, split: Split) -> Pictures:
        """One split. The three are disjoint and always the same."""

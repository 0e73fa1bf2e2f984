"""Files -> (uint8 picture, label). Nothing random happens here."""

from stn_lightning.datasets.embedded import EmbeddedDigits
from stn_lightning.datasets.mnist import MNIST
from stn_lightning.datasets.pictures import Pictures, PictureSource, Source

__all__ = ["MNIST", "EmbeddedDigits", "PictureSource", "Pictures", "Source"]

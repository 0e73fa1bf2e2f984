"""Files -> (uint8 picture, label). Nothing random happens here."""

from stn_lightning.datasets.cub import CUB
from stn_lightning.datasets.embedded import EmbeddedDigits
from stn_lightning.datasets.folder import Folder
from stn_lightning.datasets.house_numbers import SVHN
from stn_lightning.datasets.mnist import MNIST
from stn_lightning.datasets.pairs import DigitPairs
from stn_lightning.datasets.photographs import Photographs, PhotographSource, Places
from stn_lightning.datasets.pictures import Pictures, PictureSource, Source

__all__ = [
    "CUB",
    "MNIST",
    "SVHN",
    "DigitPairs",
    "EmbeddedDigits",
    "Folder",
    "PhotographSource",
    "Photographs",
    "PictureSource",
    "Pictures",
    "Places",
    "Source",
]

"""What data modules of house numbers share: each picture less its own mean."""

from abc import abstractmethod

from jaxtyping import Float, UInt8
from torch import Tensor

from stn_lightning.batch import Batch
from stn_lightning.datamodules.base import BaseDataModule
from stn_lightning.datamodules.preprocessing import PreprocessedImage, stretch


class SVHNBase(BaseDataModule):
    """Pictures of numbers less their own mean: what a transformer sees outside, zero, is then the
    picture's mean colour.
    """

    preprocess_summary = "stretched, less its own mean"
    """What becomes of a picture from elsewhere, in words."""

    @abstractmethod
    def coloured(self, batch: Batch) -> Float[Tensor, "batch 3 height width"]:
        """The pictures, 0 to 1, their mean not taken off."""

    def distorted(self, batch: Batch) -> Batch:
        return batch._replace(image=_centred(self.coloured(batch)))

    def preprocess(
        self, picture: UInt8[Tensor, "3 rows columns"], shape: tuple[int, int, int]
    ) -> PreprocessedImage:
        """A picture from elsewhere as the task gets it: all of it, stretched to the image's shape
        as SVHN's are, less its own mean.

        Args:
            picture: of one number, with a margin of 15 % of its width and height on each side.
            shape: of the image.
        """
        fit = stretch(picture, shape)
        return fit._replace(image=_centred(fit.image[None])[0])


def _centred(
    image: Float[Tensor, "batch channels height width"],
) -> Float[Tensor, "batch channels height width"]:
    return image - image.mean((1, 2, 3), keepdim=True)

"""What a picture from elsewhere needs to become what a task gets."""

from typing import NamedTuple

import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.nn import functional

GREY = (0.299, 0.587, 0.114)
"""Of red, green and blue (ITU-R BT.601), as Pillow has it."""


class PreprocessedImage(NamedTuple):
    """A picture as a task gets it, and where that lies in the picture."""

    image: Float[Tensor, "channels height width"]
    """0 to 1"""
    origin: tuple[float, float]
    """(x, y) in the picture of the image's upper left corner, in pixels from the picture's own"""
    scale: tuple[float, float]
    """The picture's pixels to one of the image's, along x and along y"""

    def in_picture(self, points: Float[Tensor, "*points 2"]) -> Float[Tensor, "*points 2"]:
        """From -1 to 1 across the image to pixels of the picture, (0, 0) being its upper left
        corner.
        """
        (x, y), height, width = self.scale, *self.image.shape[1:]
        half = points.new_tensor([width / 2 * x, height / 2 * y])
        return points.new_tensor(self.origin) + (points + 1) * half


def fit_centre(
    picture: UInt8[Tensor, "3 rows columns"], shape: tuple[int, int, int]
) -> PreprocessedImage:
    """All of a picture, in the middle of an image of `shape`: shrunk where it is larger, never
    enlarged, surrounded by zeros.

    An image of one channel is grey.
    """
    channels, height, width = shape
    rows, columns = picture.shape[1:]
    shrunk = min(1.0, height / rows, width / columns)
    inner = (max(1, round(rows * shrunk)), max(1, round(columns * shrunk)))
    if inner != (rows, columns):
        picture = functional.interpolate(picture[None], inner, mode="bilinear", antialias=True)[0]
    values = picture.float()
    if channels == 1:
        values = (values * values.new_tensor(GREY)[:, None, None]).sum(0, keepdim=True).round()
    top, left = (height - inner[0]) // 2, (width - inner[1]) // 2
    image = torch.zeros(channels, height, width)
    image[:, top : top + inner[0], left : left + inner[1]] = values / 255
    scale = (columns / inner[1], rows / inner[0])
    return PreprocessedImage(image, (-left * scale[0], -top * scale[1]), scale)


def stretch(
    picture: UInt8[Tensor, "3 rows columns"], shape: tuple[int, int, int]
) -> PreprocessedImage:
    """All of a picture in colour, brought to the height and width of `shape` whatever its own
    proportions.
    """
    image = (
        functional.interpolate(picture[None], shape[1:], mode="bilinear", antialias=True)[0].float()
        / 255
    )
    return PreprocessedImage(
        image, (0.0, 0.0), (picture.shape[2] / shape[2], picture.shape[1] / shape[1])
    )


def centre_crop(
    picture: UInt8[Tensor, "3 rows columns"], resized: UInt8[Tensor, "3 height width"], size: int
) -> PreprocessedImage:
    """A square of `size` from the middle of a picture that was `resized`."""
    (rows, columns), (height, width) = picture.shape[1:], resized.shape[1:]
    top, left = (height - size + 1) // 2, (width - size + 1) // 2
    image = resized[:, top : top + size, left : left + size].float() / 255
    scale = (columns / width, rows / height)
    return PreprocessedImage(image, (left * scale[0], top * scale[1]), scale)


def is_light_background(picture: UInt8[Tensor, "3 rows columns"]) -> bool:
    """Whether most of a picture's rim is lighter than half: dark ink on light paper."""
    rim = torch.cat([picture[:, 0], picture[:, -1], picture[:, :, 0], picture[:, :, -1]], dim=1)
    return bool(rim.sum(0, dtype=torch.int32).median() > 3 * 127)

"""Turn an image in a file into a task's input."""

from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from jaxtyping import Float, Int32, UInt8
from torch import Tensor
from torch.nn import functional

from stn_lightning.datasets.image_files import resize_smallest_side

RGB = UInt8[Tensor, "3 rows columns"]
"""An upright image in colour."""
GREY = (0.299, 0.587, 0.114)
"""Weights of red, green and blue (ITU-R BT.601), as in Pillow."""


class PreprocessedImage(NamedTuple):
    """A task's input, and its position in the original image."""

    image: Float[Tensor, "channels height width"]
    """from 0 to 1"""
    origin: tuple[float, float]
    """(x, y) of this image's upper left corner, in pixels of the original"""
    scale: tuple[float, float]
    """width and height of a pixel of this image, in pixels of the original"""

    def to_original(self, points: Float[Tensor, "*points 2"]) -> Float[Tensor, "*points 2"]:
        """Convert points to pixels of the original image.

        Args:
            points: (x, y) from -1 to 1 across this image.

        Returns:
            (x, y) in pixels; (0, 0) is the original's upper left corner.
        """
        (x, y), height, width = self.scale, *self.image.shape[1:]
        half = points.new_tensor([width / 2 * x, height / 2 * y])
        return points.new_tensor(self.origin) + (points + 1) * half


@dataclass(frozen=True)
class Preprocessing:
    """Steps that turn an image into a task's input.

    Args:
        resize: "fit" shrinks a larger image as a whole and centres it on black; "stretch" resizes
            it, whatever its proportions; "crop" resizes its smaller side to `side` and crops the
            square in the middle. All are bilinear and antialiased.
        side: smaller side before the crop, in pixels.
        invert_light: whether to turn dark ink on an image with a light border into light ink on
            black (`ink_on_paper`).
        subtract_mean: whether to subtract the image's mean over pixels and channels.

    Examples:
        >>> digits = Preprocessing("fit", invert_light=True)
        >>> digits(torch.full((3, 200, 100), 255, dtype=torch.uint8), (1, 42, 42)).image.shape
        torch.Size([1, 42, 42])
    """

    resize: Literal["fit", "stretch", "crop"]
    side: int | None = None
    invert_light: bool = False
    subtract_mean: bool = False

    def __post_init__(self) -> None:
        if (self.resize == "crop") != (self.side is not None):
            raise ValueError(f"side {self.side}: give it for resize 'crop', and for no other")

    def __call__(self, image: RGB, shape: tuple[int, int, int]) -> PreprocessedImage:
        """Preprocess an upright image in colour to (channels, height, width)."""
        if self.invert_light and is_light_background(image):
            image = ink_on_paper(image)
        if self.resize == "fit":
            result = fit_centre(image, shape)
        elif self.resize == "stretch":
            result = stretch(image, shape)
        else:
            result = centre_crop(image, self.side or 0, shape[1])
        if not self.subtract_mean:
            return result
        return result._replace(image=result.image - result.image.mean())

    def __str__(self) -> str:
        steps = {
            "fit": "shrunk into the middle if it was larger",
            "stretch": "stretched",
            "crop": f"resized to a smallest side of {self.side} px, then cropped to its middle",
        }
        inverted = ", inverted if it was dark on light" * self.invert_light
        return steps[self.resize] + inverted + ", less its own mean" * self.subtract_mean


def fit_centre(image: RGB, shape: tuple[int, int, int]) -> PreprocessedImage:
    """Shrink an image and centre it on zeros.

    A small image is not enlarged. With one channel in `shape` it is converted to grey.
    """
    channels, height, width = shape
    rows, columns = image.shape[1:]
    factor = min(1.0, height / rows, width / columns)
    inner = (max(1, round(rows * factor)), max(1, round(columns * factor)))
    values = resize(image, inner).float()
    if channels == 1:
        values = (values * values.new_tensor(GREY)[:, None, None]).sum(0, keepdim=True).round()
    top, left = (height - inner[0]) // 2, (width - inner[1]) // 2
    result = torch.zeros(channels, height, width)
    result[:, top : top + inner[0], left : left + inner[1]] = values / 255
    scale = (columns / inner[1], rows / inner[0])
    return PreprocessedImage(result, (-left * scale[0], -top * scale[1]), scale)


def stretch(image: RGB, shape: tuple[int, int, int]) -> PreprocessedImage:
    """Resize a colour image to `shape`, whatever its proportions."""
    scale = (image.shape[2] / shape[2], image.shape[1] / shape[1])
    return PreprocessedImage(resize(image, shape[1:]).float() / 255, (0.0, 0.0), scale)


def centre_crop(image: RGB, side: int, size: int) -> PreprocessedImage:
    """Resize the smaller side; crop the square in the middle."""
    rows, columns = image.shape[1:]
    resized = torch.from_numpy(resize_smallest_side(image.permute(1, 2, 0).numpy(), side))
    height, width = resized.shape[:2]
    top, left = (height - size + 1) // 2, (width - size + 1) // 2
    crop = resized.permute(2, 0, 1)[:, top : top + size, left : left + size]
    scale = (columns / width, rows / height)
    return PreprocessedImage(crop.float() / 255, (left * scale[0], top * scale[1]), scale)


def resize(
    image: UInt8[Tensor, "channels rows columns"], size: tuple[int, int]
) -> UInt8[Tensor, "channels height width"]:
    """Resize to (height, width), antialiased."""
    if image.shape[1:] == size:
        return image
    return functional.interpolate(image[None], size, mode="bilinear", antialias=True)[0]


def is_light_background(image: RGB) -> bool:
    """Return True if most of an image's border is light."""
    return bool(_border(image).sum(0).median() > 3 * 127)


def ink_on_paper(image: RGB) -> RGB:
    """Return light ink on black.

    In each channel the paper's value, or a lighter one, becomes 0, and 0 becomes 255. Paper may be
    grey, yellow, or darker on one side, so its value is the first decile of the border's values,
    but at least 0.7 of their median: darker values are ink that reaches the border.
    """
    border = _border(image).sort(1).values
    last = border.shape[1] - 1
    paper = torch.maximum(border[:, last // 10], border[:, last // 2] * 7 // 10)
    paper = paper.clamp(min=1)[:, None, None]
    ink = (paper - image.int()).clamp(min=0)
    return ((ink * 255 + paper // 2) // paper).to(torch.uint8)


def _border(image: RGB) -> Int32[Tensor, "3 pixels"]:
    return torch.cat([image[:, 0], image[:, -1], image[:, :, 0], image[:, :, -1]], dim=1).int()

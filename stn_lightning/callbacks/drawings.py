"""Draw images, the outlines of their crops, and the crops."""

import itertools
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int64, UInt8
from PIL import Image, ImageDraw
from torch import Tensor

from stn_lightning.geometry import alignment, lattice, measures, overlap
from stn_lightning.shapes import ImagesND, Logits
from stn_lightning.transformers import WarpOutput

COLOURS = ("#ff4136", "#2ecc40", "#0074d9", "#ffdc00", "#b10dc9", "#ff851b")
"""Colours of the outlines of parallel transformers, in turn."""
_GAP = 4
_CAPTION = 28
_LETTERS = 9
_SIDE = 112
ROW = _SIDE + 2 * _GAP
"""height of a row of images in a drawing without captions, in pixels"""


class Caption(NamedTuple):
    """The text below an image, at most two lines."""

    text: str
    correct: bool
    """whether the prediction is correct; otherwise the caption is red"""


def draw(
    image: ImagesND,
    warp: WarpOutput,
    side: int = _SIDE,
    columns: int = 4,
    captions: Sequence[Caption] | None = None,
) -> UInt8[np.ndarray, "rows columns 3"]:
    """Draw images with outlines of crops, and the crops.

    Args:
        image: input images, from 0 to 1.
        warp: output of a transformer, or of several in parallel.
        side: side of each image in the drawing, in pixels.
        columns: number of images, with their crops, in a row.
        captions: captions of the images; with them crops have captions, too (`crop_caption`).
    """
    if warp.grid.shape[-1] == 3:
        image, warp = _project(image, warp)
    crops, grids = warp.image.detach().float().cpu(), warp.grid.detach().float().cpu()
    if crops.dim() == 4:
        crops, grids = crops[:, None], grids[:, None]
    step = (1 + crops.shape[1]) * (side + _GAP) + 2 * _GAP
    rows, high = -(-len(image) // columns), side + 2 * _GAP + (_CAPTION if captions else 0)
    panel = Image.new("RGB", (min(columns, len(image)) * step, rows * high), "white")
    pen = ImageDraw.Draw(panel)
    for i in range(len(image)):
        x, y = i % columns * step + _GAP, i // columns * high + _GAP
        outlined = to_rgb_square(image[i], side)
        for n, grid in enumerate(grids[i]):
            draw_outline(
                ImageDraw.Draw(outlined),
                outline(grid, side),
                grid.shape[1],
                COLOURS[n % len(COLOURS)],
            )
        panel.paste(outlined, (x, y))
        for n, crop in enumerate(crops[i]):
            left = x + (n + 1) * (side + _GAP)
            panel.paste(to_rgb_square(crop, side), (left, y))
            if captions:
                text = crop_caption(grids[i, n], (image.shape[-2], image.shape[-1]))
                pen.text((left, y + side + 1), text, fill="grey")
        if captions:
            fill = "black" if captions[i].correct else COLOURS[0]
            pen.text((x, y + side + 1), captions[i].text, fill=fill)
    return np.asarray(panel)


def draw_outline(
    pen: ImageDraw.ImageDraw, line: Sequence[tuple[float, float]], upper: int, colour: str
) -> None:
    """Draw a crop's outline, its upper edge thicker.

    Args:
        pen: pen on the image.
        line: points of the closed outline, from the upper left corner along the upper edge.
        upper: number of points of the upper edge.
        colour: colour of the line.
    """
    pen.line(list(line), fill=colour, width=2)
    pen.line(list(line[:upper]), fill=colour, width=4)


def outline(grid: Float[Tensor, "height width 2"], side: int) -> list[tuple[float, float]]:
    """Return a grid's outline as a closed line, in pixels.

    Points further out of bounds than the image's width are moved there.

    Args:
        grid: sampling grid of the crop.
        side: height and width of the drawn image, in pixels.
    """
    corners = overlap.outline(grid[None])[0]
    pixels = lattice.to_pixels(corners.clamp(-3, 3), (side, side))
    return [(float(x), float(y)) for x, y in torch.cat([pixels, pixels[:1]])]


def crop_caption(grid: Float[Tensor, "height width 2"], size: tuple[int, int]) -> str:
    """Describe a crop by its angle, size and position.

    Args:
        grid: sampling grid of the crop.
        size: height and width of the image, in pixels.

    Returns:
        two lines. The first has the clockwise angle in degrees, -179 to 180, or "mirrored", and the
        square root of (area of the crop / area of the image). The second has the position of the
        crop's centre, in pixels to the right of the image's centre and below it. "" for a grid of
        one row or column.

    Examples:
        >>> from stn_lightning.geometry import affine
        >>> grid = affine.grid(torch.tensor([[1.0, 0, 0, 0, 1, 0]]), (28, 28))
        >>> print(crop_caption(grid[0], (28, 28)))
        0 deg, 1.00
        +0.0, +0.0 px
    """
    if min(grid.shape[:2]) < 2:
        return ""
    found = alignment.pose(alignment.nearest_affine(grid[None]), size)
    x, y = found.place[0].tolist()
    angle = round(math.degrees(found.angle.item())) + 0
    turned = f"{180 if angle == -180 else angle} deg"  # a half turn has one name
    first = "mirrored" if measures.is_mirrored(grid[None]) else turned
    return f"{first}, {found.scale.exp().item():.2f}\n{x:+z.1f}, {y:+z.1f} px"


def _project(
    volume: Float[Tensor, "batch channels depth height width"], warp: WarpOutput
) -> tuple[Tensor, WarpOutput]:
    """Project volumes along their depth.

    The outline is that of the slice in the middle of the crop.
    """
    middle = warp.grid[:, warp.grid.shape[1] // 2, ..., :2]
    return volume.amax(2), WarpOutput(warp.image.amax(2), warp.theta, middle)


def to_rgb_square(image: Float[Tensor, "channels *size"], side: int) -> Image.Image:
    """Convert an image, 0 to 1, to a square.

    A volume is projected along its depth. Two channels become red and green.
    """
    image = image.amax(1) if image.dim() == 4 else image
    values = image.detach().float().cpu().clamp(0, 1).mul(255).round().byte()
    colours = values.new_zeros(3, *values.shape[1:])
    colours[:] = values if len(values) == 1 else 0
    colours[: len(values)] = values[:3]
    return Image.fromarray(colours.permute(1, 2, 0).contiguous().numpy()).resize(
        (side, side), Image.Resampling.NEAREST
    )


def to_displayable(
    image: Float[Tensor, "batch *size"], crop: Float[Tensor, "batch *crop"]
) -> tuple[Tensor, Tensor]:
    """Map normalised images and crops to 0 to 1.

    Images count as normalised if they have values below 0. Others are not changed.
    """
    low, high = image.flatten(1).amin(1), image.flatten(1).amax(1)
    normalised = low < 0
    low, size = low.where(normalised, 0), (high - low).clamp(min=1e-6).where(normalised, 1)
    image, crop = (
        (x - low.view(-1, *[1] * (x.dim() - 1))) / size.view(-1, *[1] * (x.dim() - 1))
        for x in (image, crop)
    )
    return image, crop


def prediction_captions(
    logits: Logits, label: Int64[Tensor, "batch *digits"], class_names: Sequence[str]
) -> list[Caption]:
    """Describe predictions: class -> predicted class, probability.

    The classes of a sequence are joined; "no digit here" has an empty name.
    """

    def name(classes: int | list[int]) -> str:
        if isinstance(classes, int):
            return shorten(class_names[classes])
        return "".join(class_names[i] for i in classes) or "nothing"

    probability = logits.float().softmax(-1).amax(-1)
    if label.dim() > 1:  # probability of the whole number
        probability = probability.prod(-1)
    return [
        Caption(f"{name(true)} -> {name(predicted)}\n{sure:.0%}", predicted == true)
        for predicted, true, sure in zip(
            logits.argmax(-1).tolist(), label.tolist(), probability.tolist(), strict=True
        )
    ]


def shorten(name: str, letters: int = _LETTERS) -> str:
    """Shorten a long name; two fit into a line."""
    return name if len(name) <= letters else f"{name[: letters - 2]}.."


def cut(panel: Image.Image) -> list[Image.Image]:
    """Split a drawing into its images, each with its crops.

    The drawing must have been made by `draw` with its default `side`.
    """
    columns = panel.width % (_SIDE + _GAP) // (2 * _GAP)
    width = panel.width // columns
    height = ROW if panel.height % ROW == 0 else ROW + _CAPTION
    corners = itertools.product(range(0, panel.height, height), range(0, panel.width, width))
    return [panel.crop((x, y, x + width, y + height)) for y, x in corners]

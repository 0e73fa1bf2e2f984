"""Draw images, the outlines of their crops, and the crops."""

import itertools
import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int64, UInt8
from lightning import Callback, LightningModule, Trainer
from PIL import Image, ImageDraw
from torch import Tensor

from stn_lightning.batch import Batch
from stn_lightning.callbacks.image_loggers import log_image
from stn_lightning.datamodules.base import datamodule_of
from stn_lightning.geometry import alignment, lattice, overlap
from stn_lightning.runtime.atomic_files import atomic_write, only_informs
from stn_lightning.tasks import StepOutput
from stn_lightning.transformers import WarpOutput, WarpRecord, compose_records

COLOURS = ("#ff4136", "#2ecc40", "#0074d9", "#ffdc00", "#b10dc9", "#ff851b")
"""Colours of the outlines of parallel transformers, in turn."""
_GAP = 4
_CAPTION = 28
_LETTERS = 9
_SIDE = 112
PANEL = "where it looks"
"""tag of the drawing in the loggers"""
LOGGED = 30
"""about how many drawings of a training go to the loggers"""
ROW = _SIDE + 2 * _GAP
"""height of a row of images in a drawing without captions, in pixels"""


class Caption(NamedTuple):
    """The text below an image, at most two lines."""

    text: str
    correct: bool
    """whether the prediction is; else the caption is red"""


class _Example(NamedTuple):
    """Images of a validation batch that are drawn."""

    image: Tensor
    label: Tensor
    logits: Tensor | None
    warp: WarpOutput


class WarpImages(Callback):
    """Draw validation images and their crops after each epoch.

    Each image has the outlines of its crops, and the crops beside it. The thick edge of an outline
    is the crop's upper one. Below an image stand its class, the predicted one and its probability,
    red where the two differ; below a crop its angle, its size and how far its centre is from the
    image's, see `crop_caption`.

    Transformers in series have one outline, that of their composition. The drawing is `panel.png`
    in the trainer's `default_root_dir`; it goes to each logger that takes images, too, after about
    thirty of the epochs. Without a transformer nothing is drawn.

    Args:
        num_images: largest number of images. They are the first of each class, or, if there are
            more classes, evenly spread over the validation split; the same after each epoch.

    Examples:
        >>> trainer = Trainer(callbacks=[WarpImages(8)], logger=False, accelerator="cpu")
    """

    def __init__(self, num_images: int = 16) -> None:
        self.num_images = num_images
        self.examples: list[_Example] = []
        self.counts: Counter[int] = Counter()

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.examples, self.counts = [], Counter()

    def on_validation_batch_end(  # type: ignore[override]  # Lightning types outputs as tensors
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: StepOutput,
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        if trainer.sanity_checking or not trainer.is_global_zero or not outputs.records:
            return
        chosen = self._choose(trainer, batch, batch_idx, dataloader_idx)
        if not chosen:
            return
        image, logits = batch.image[chosen], outputs.logits
        record = compose_records([select(record, chosen) for record in outputs.records], image)
        if record is not None:
            logits = None if logits is None else logits[chosen]
            self.examples.append(_Example(image, batch.label[chosen], logits, record.output))

    def _choose(
        self, trainer: Trainer, batch: Batch, batch_idx: int, dataloader_idx: int
    ) -> list[int]:
        """Return the places of a batch's images that are wanted."""
        num_classes = len(datamodule_of(trainer).class_names)
        if batch.label.dim() != 1 or num_classes > self.num_images:
            batches = int(trainer.num_val_batches[dataloader_idx])
            return spread(self.num_images, batches, batch_idx, len(batch.label))
        missing = self.num_images - sum(self.counts.values())
        if len(self.counts) >= min(self.num_images, num_classes) and missing <= 0:
            return []
        quota = -(-self.num_images // num_classes)
        chosen = []
        for i, label in enumerate(batch.label.tolist()):
            if self.counts[label] < quota:
                self.counts[label] += 1
                chosen.append(i)
        return chosen

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not self.examples:
            return
        panel = self._draw(datamodule_of(trainer).class_names)
        self.examples = []
        if not trainer.fast_dev_run:  # type: ignore[attr-defined]  # Lightning sets it
            # not trainer.log_dir, which waits for the other processes
            file = Path(trainer.default_root_dir) / "panel.png"
            with only_informs(file), atomic_write(file) as out:
                Image.fromarray(panel).save(out, "PNG")
        if is_logged(trainer.current_epoch, trainer.max_epochs):
            log_image(trainer, PANEL, panel)

    def _draw(self, class_names: Sequence[str]) -> UInt8[np.ndarray, "rows columns 3"]:
        image, label = (
            torch.cat([getattr(each, key) for each in self.examples]) for key in ("image", "label")
        )
        warp = WarpOutput(
            *(torch.cat(parts) for parts in zip(*(e.warp for e in self.examples), strict=True))
        )
        order = spread_over_classes(label, self.num_images)
        image, label = image[order], label[order]
        warp = WarpOutput(*(values[order] for values in warp))
        shown, crop = to_displayable(image, warp.image)
        captions = None
        logits = [each.logits for each in self.examples if each.logits is not None]
        if logits:
            captions = prediction_captions(torch.cat(logits)[order], label, class_names)
        return draw(shown, warp._replace(image=crop), captions=captions)


def spread(number: int, batches: int, batch: int, size: int) -> list[int]:
    """Return which images of a batch to take.

    Over all batches they are `number`, evenly spread.

    Args:
        number: number of images.
        batches: number of batches.
        batch: index of this one.
        size: images in it.
    """
    begin, end = (-(-number * i // batches) for i in (batch, batch + 1))
    wanted = min(end - begin, size)
    return [size * k // wanted for k in range(wanted)]


def spread_over_classes(label: Int64[Tensor, "batch *digits"], n: int) -> list[int]:
    """Return the places of `n` images of all classes.

    They are the first image of each class, then the second of each, and so on. Of sequences of
    labels they are the first `n` images.
    """
    if label.dim() != 1:
        return list(range(min(n, len(label))))
    seen: Counter[int] = Counter()
    keys = []
    for i, each in enumerate(label.tolist()):
        keys.append((seen[each], each, i))
        seen[each] += 1
    return [i for _, _, i in sorted(keys)[:n]]


def is_logged(epoch: int, max_epochs: int | None) -> bool:
    """Return True for epochs whose panel goes to the loggers.

    They are evenly spread over the training, with the first and the last, so that events of a long
    training stay small. Of a training without an end they are the first ten, each tenth of the
    first hundred, and so on.

    Args:
        epoch: number of the epoch, from 0.
        max_epochs: length of the training; None or -1 where it has no end.

    Examples:
        >>> [epoch for epoch in range(90) if is_logged(epoch, 90)][:4]
        [0, 2, 5, 8]
    """
    number = epoch + 1
    if max_epochs is None or max_epochs < 0:
        return number % 10 ** (len(str(number)) - 1) == 0
    return number in (1, max_epochs) or number % -(-max_epochs // LOGGED) == 0


def select(record: WarpRecord, chosen: list[int]) -> WarpRecord:
    """Keep some images of a record."""
    return record._replace(output=WarpOutput(*(values[chosen] for values in record.output)))


def draw(
    image: Float[Tensor, "batch channels *size"],
    warp: WarpOutput,
    side: int = _SIDE,
    columns: int = 4,
    captions: Sequence[Caption] | None = None,
) -> UInt8[np.ndarray, "rows columns 3"]:
    """Draw images with outlines of crops, and the crops.

    Args:
        image: the input, 0 to 1.
        warp: the output of a transformer, or of several in parallel.
        side: side of each image in the drawing, in pixels.
        columns: images (with their crops) in a row.
        captions: below each image, if given; what `crop_caption` says is then below each crop.
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
        line: closed line from the upper left corner along the upper edge.
        upper: number of points of the upper edge.
        colour: colour of the line.
    """
    pen.line(list(line), fill=colour, width=2)
    pen.line(list(line[:upper]), fill=colour, width=4)


def crop_caption(grid: Float[Tensor, "height width 2"], size: tuple[int, int]) -> str:
    """Describe a crop by its angle, size and place.

    Args:
        grid: sampling grid of the crop.
        size: height and width of the image, in pixels.

    Returns:
        two lines: degrees, clockwise as one sees it, and the root of the crop's area as a part of
        the image's; pixels to the right and down. Nothing for a grid of one row or column.

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
    return f"{angle} deg, {found.scale.exp().item():.2f}\n{x:+.1f}, {y:+.1f} px"


def cut(panel: Image.Image) -> list[Image.Image]:
    """Cut a drawing into its images, each with its crops.

    The drawing has the size that `draw` gives it unless told otherwise.
    """
    columns = panel.width % (_SIDE + _GAP) // (2 * _GAP)
    width = panel.width // columns
    height = ROW if panel.height % ROW == 0 else ROW + _CAPTION
    corners = itertools.product(range(0, panel.height, height), range(0, panel.width, width))
    return [panel.crop((x, y, x + width, y + height)) for y, x in corners]


def to_displayable(
    image: Float[Tensor, "batch *size"], crop: Float[Tensor, "batch *crop"]
) -> tuple[Tensor, Tensor]:
    """Map normalised images to 0 to 1, and crops likewise.

    Normalised are images that go below 0; the others stay as they are.
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
    logits: Float[Tensor, "batch *digits classes"],
    label: Int64[Tensor, "batch *digits"],
    class_names: Sequence[str],
) -> list[Caption]:
    """Describe predictions: label -> predicted class, probability.

    A sequence's classes are joined; its last class, "no digit here", has an empty name.
    """

    def name(classes: int | list[int]) -> str:
        if isinstance(classes, int):
            return shorten(class_names[classes])
        return "".join(class_names[i] for i in classes) or "nothing"

    probability = logits.float().softmax(-1).amax(-1)
    if label.dim() > 1:  # of all digits together
        probability = probability.prod(-1)
    return [
        Caption(f"{name(true)} -> {name(predicted)}\n{sure:.0%}", predicted == true)
        for predicted, true, sure in zip(
            logits.argmax(-1).tolist(), label.tolist(), probability.tolist(), strict=True
        )
    ]


def shorten(name: str, letters: int = _LETTERS) -> str:
    """Cut a long name, by default so that two fit."""
    return name if len(name) <= letters else f"{name[: letters - 2]}.."


def _project(
    volume: Float[Tensor, "batch channels depth height width"], warp: WarpOutput
) -> tuple[Tensor, WarpOutput]:
    """Project volumes, and outline the middle of the crop's depth."""
    middle = warp.grid[:, warp.grid.shape[1] // 2, ..., :2]
    return volume.amax(2), WarpOutput(warp.image.amax(2), warp.theta, middle)


def outline(grid: Float[Tensor, "height width 2"], side: int) -> list[tuple[float, float]]:
    """Return a grid's outline as a closed line, in pixels.

    The image has `side` pixels. The line is held within an image's width around the image, so that
    it can be drawn.
    """
    corners = overlap.outline(grid[None])[0]
    pixels = lattice.to_pixels(corners.clamp(-3, 3), (side, side))
    return [(float(x), float(y)) for x, y in torch.cat([pixels, pixels[:1]])]


def to_rgb_square(image: Float[Tensor, "channels *size"], side: int) -> Image.Image:
    """Return an image, 0 to 1, as a coloured square.

    A volume is projected along its depth.
    """
    image = image.amax(1) if image.dim() == 4 else image
    values = image.detach().float().cpu().clamp(0, 1).mul(255).round().byte()
    colours = values.new_zeros(3, *values.shape[1:])
    colours[:] = values if len(values) == 1 else 0
    colours[: len(values)] = values[:3]  # two channels are red and green
    return Image.fromarray(colours.permute(1, 2, 0).contiguous().numpy()).resize(
        (side, side), Image.Resampling.NEAREST
    )

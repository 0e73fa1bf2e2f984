"""Draw images, the outlines of their crops, and the crops."""

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int64, UInt8
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from PIL import Image, ImageDraw
from torch import Tensor

from stn_lightning.batch import Batch
from stn_lightning.datamodules.base import datamodule_of
from stn_lightning.geometry import lattice, overlap
from stn_lightning.runtime.atomic_files import atomic_write, only_informs
from stn_lightning.tasks import StepOutput
from stn_lightning.transformers import WarpOutput, WarpRecord, compose_records

COLOURS = ("#ff4136", "#2ecc40", "#0074d9", "#ffdc00", "#b10dc9", "#ff851b")
"""Colours of the outlines of parallel transformers, in turn."""
_GAP = 4
_CAPTION = 14
_SIDE = 112
ROW = _SIDE + 2 * _GAP
"""height of a row of images in a drawing without captions, in pixels"""


class Caption(NamedTuple):
    """The text below an image."""

    text: str
    correct: bool
    """whether the prediction is; else the caption is red"""


class _Shown(NamedTuple):
    """Images of a batch that are drawn, and their crops."""

    image: Tensor
    warp: WarpOutput
    captions: list[Caption]


class WarpImages(Callback):
    """Draw validation images and their crops after each epoch.

    Each image has the outlines of its crops, and the crops beside it. Transformers in series have
    one outline, that of their composition. Below each image stands the prediction, in red if it is
    wrong. The drawing goes to TensorBoard, and to `panel.png` in the trainer's `default_root_dir`.
    Without a transformer nothing is drawn.

    Args:
        num_images: how many, evenly spread over the validation split, so that one which is sorted
            by class shows many classes. They are the same after each epoch.

    Examples:
        >>> trainer = Trainer(callbacks=[WarpImages(8)], logger=False, accelerator="cpu")
    """

    def __init__(self, num_images: int = 16) -> None:
        self.num_images = num_images
        self.shown: list[_Shown] = []

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.shown = []

    def on_validation_batch_end(  # type: ignore[override]  # Lightning types outputs as tensors
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: StepOutput,
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        if trainer.sanity_checking or not trainer.is_global_zero:
            return
        batches = trainer.num_val_batches[dataloader_idx]
        chosen = spread(self.num_images, int(batches), batch_idx, len(batch.label))
        if not chosen:
            return
        image, label, logits = batch.image[chosen], batch.label[chosen], outputs.logits
        records = [select(record, chosen) for record in outputs.records]
        record = compose_records(records, image)
        if record is None:
            return
        shown, crop = to_displayable(image, record.output.image)
        warp = WarpOutput(*(each.cpu() for each in record.output._replace(image=crop)))
        names = datamodule_of(trainer).class_names
        captions = (
            prediction_captions(logits[chosen], label, names)
            if logits is not None and label.dim() == 2
            else []
        )
        self.shown.append(_Shown(shown.cpu(), warp, captions))

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not self.shown:
            return
        warps = zip(*(each.warp for each in self.shown), strict=True)
        panel = draw(
            torch.cat([each.image for each in self.shown]),
            WarpOutput(*map(torch.cat, warps)),
            captions=[caption for each in self.shown for caption in each.captions],
        )
        self.shown = []
        if not trainer.fast_dev_run:  # type: ignore[attr-defined]  # as above
            # not trainer.log_dir, which waits for the other processes
            file = Path(trainer.default_root_dir) / "panel.png"
            with only_informs(file), atomic_write(file) as out:
                Image.fromarray(panel).save(out, "PNG")
        if isinstance(trainer.logger, TensorBoardLogger):
            trainer.logger.experiment.add_image(
                "where it looks", panel, trainer.global_step, dataformats="HWC"
            )


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
        captions: below each image, if given.
    """
    if warp.grid.shape[-1] == 3:
        image, warp = _project(image, warp)
    crops, grids = warp.image.detach().float().cpu(), warp.grid.detach().float().cpu()
    if crops.dim() == 4:
        crops, grids = crops[:, None], grids[:, None]
    step = (1 + crops.shape[1]) * (side + _GAP) + 2 * _GAP
    rows, high = -(-len(image) // columns), side + 2 * _GAP + (_CAPTION if captions else 0)
    panel = Image.new("RGB", (min(columns, len(image)) * step, rows * high), "white")
    for i in range(len(image)):
        x, y = i % columns * step + _GAP, i // columns * high + _GAP
        outlined = to_rgb_square(image[i], side)
        for n, grid in enumerate(grids[i]):
            ImageDraw.Draw(outlined).line(
                outline(grid, side), fill=COLOURS[n % len(COLOURS)], width=2
            )
        panel.paste(outlined, (x, y))
        for n, crop in enumerate(crops[i]):
            panel.paste(to_rgb_square(crop, side), (x + (n + 1) * (side + _GAP), y))
        if captions:
            ImageDraw.Draw(panel).text(
                (x, y + side + 1),
                captions[i].text,
                fill="black" if captions[i].correct else COLOURS[0],
            )
    return np.asarray(panel)


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
    """Describe each prediction, with the label where the two differ.

    A sequence's classes are joined; its last class, "no digit here", has an empty name.
    """

    def name(classes: int | list[int]) -> str:
        return "".join(class_names[i] for i in ([classes] if isinstance(classes, int) else classes))

    return [
        Caption(name(predicted), True)
        if predicted == true
        else Caption(f"{name(predicted) or 'nothing'}, is {name(true)}", False)
        for predicted, true in zip(logits.argmax(-1).tolist(), label.tolist(), strict=True)
    ]


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
    """Return an image, 0 to 1, as a coloured square; a volume is projected along its depth."""
    image = image.amax(1) if image.dim() == 4 else image
    values = image.detach().float().cpu().clamp(0, 1).mul(255).round().byte()
    colours = values.new_zeros(3, *values.shape[1:])
    colours[:] = values if len(values) == 1 else 0
    colours[: len(values)] = values[:3]  # two channels are red and green
    return Image.fromarray(colours.permute(1, 2, 0).contiguous().numpy()).resize(
        (side, side), Image.Resampling.NEAREST
    )

"""A picture of where transformers look."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from PIL import Image, ImageDraw
from torch import Tensor

from stn_lightning.batch import Batch
from stn_lightning.transformers import Transformer, Warp

COLOURS = ("#ff4136", "#2ecc40", "#0074d9", "#ffdc00", "#b10dc9", "#ff851b")
"""Of the outlines of parallel transformers, in turn."""
_GAP = 4


class Panel(Callback):
    """The same validation pictures after each epoch, in pairs: input with the outline of where each transformer looks | warped output.

    Goes to TensorBoard, and as `panel.png` into the trainer's default_root_dir. A task without a transformer has none.

    Args:
        pictures: how many.
    """

    def __init__(self, pictures: int = 16) -> None:
        self.pictures = pictures
        self.image: Tensor | None = None

    def on_validation_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Batch, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        if batch_idx == 0 and trainer.is_global_zero:
            self.image = batch.image[: self.pictures].detach()

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        transformer = getattr(pl_module, "transformer", None)
        if self.image is None or trainer.sanity_checking or not isinstance(transformer, Transformer):
            return
        with torch.no_grad():
            panel = draw(self.image, transformer.warp(self.image))
        if not trainer.fast_dev_run:  # type: ignore[attr-defined]  # Lightning sets it without declaring it
            Image.fromarray(panel).save(Path(trainer.default_root_dir) / "panel.png")  # trainer.log_dir waits for the other processes
        if isinstance(trainer.logger, TensorBoardLogger):
            trainer.logger.experiment.add_image("where it looks", panel, trainer.global_step, dataformats="HWC")


def draw(
    image: Float[Tensor, "batch channels *size"], warp: Warp, side: int = 112, columns: int = 4
) -> UInt8[np.ndarray, "rows columns 3"]:
    """Each picture with the outlines of its crops, and its crops beside it.

    Args:
        image: the input, 0 to 1.
        warp: what a transformer, or several in parallel, made of it.
        side: of each picture in the panel, in pixels.
        columns: pictures (with their crops) a row.
    """
    if warp.grid.shape[-1] == 3:
        image, warp = _from_the_front(image, warp)
    crops, grids = warp.image.detach().float().cpu(), warp.grid.detach().float().cpu()
    if crops.dim() == 4:
        crops, grids = crops[:, None], grids[:, None]
    step = (1 + crops.shape[1]) * (side + _GAP) + 2 * _GAP
    rows = -(-len(image) // columns)
    panel = Image.new("RGB", (min(columns, len(image)) * step, rows * (side + 2 * _GAP)), "white")
    for i in range(len(image)):
        x, y = i % columns * step + _GAP, i // columns * (side + 2 * _GAP) + _GAP
        outlined = _enlarged(image[i], side)
        for n, grid in enumerate(grids[i]):
            ImageDraw.Draw(outlined).line(outline(grid, side), fill=COLOURS[n % len(COLOURS)], width=2)
        panel.paste(outlined, (x, y))
        for n, crop in enumerate(crops[i]):
            panel.paste(_enlarged(crop, side), (x + (n + 1) * (side + _GAP), y))
    return np.asarray(panel)


def outline(grid: Float[Tensor, "height width 2"], side: int) -> list[tuple[float, float]]:
    """The rim of a grid as a closed line, in pixels of a picture of `side`, held within a picture's width around it."""
    rim = torch.cat([grid[0], grid[:, -1], grid[-1].flip(0), grid[:, 0].flip(0)])
    pixels = ((rim.clamp(-3, 3) + 1) * side - 1) / 2
    return [(float(x), float(y)) for x, y in torch.cat([pixels, pixels[:1]])]


def _from_the_front(volume: Float[Tensor, "batch channels depth height width"], warp: Warp) -> tuple[Tensor, Warp]:
    """Volumes as pictures of their brightest voxels along the depth; of the crop's box, the middle of its depth is outlined."""
    middle = warp.grid[:, warp.grid.shape[1] // 2, ..., :2]
    return volume.amax(2), Warp(warp.image.amax(2), warp.theta, middle)


def _enlarged(image: Float[Tensor, "channels height width"], side: int) -> Image.Image:
    values = image.detach().float().cpu().clamp(0, 1).mul(255).round().byte()
    colours = values.new_zeros(3, *values.shape[1:])
    colours[:] = values if len(values) == 1 else 0
    colours[: len(values)] = values[:3]  # two channels are red and green
    return Image.fromarray(colours.permute(1, 2, 0).contiguous().numpy()).resize((side, side), Image.Resampling.NEAREST)

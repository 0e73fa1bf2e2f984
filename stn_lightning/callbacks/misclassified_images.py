"""A picture of the numbers that are misread."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from lightning import Callback, LightningModule, Trainer
from PIL import Image, ImageDraw
from torch import Tensor

from stn_lightning.batch import Batch
from stn_lightning.callbacks.warp_images import (
    Caption,
    prediction_captions,
    to_displayable,
    to_rgb_square,
)


class MisclassifiedImages(Callback):
    """The first test pictures whose number is read wrongly, with what is read and what it is, as
    `misread.png` in default_root_dir.

    Args:
        num_images: how many.
    """

    def __init__(self, num_images: int = 48) -> None:
        self.pictures = num_images
        self.found: list[tuple[Tensor, Caption]] = []

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.found = []

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        if batch.label.dim() != 2 or not trainer.is_global_zero or len(self.found) >= self.pictures:
            return
        with torch.no_grad():
            logits = pl_module(batch.image.to(pl_module.dtype))
        captions = prediction_captions(logits, batch.label, trainer.datamodule.class_names)  # type: ignore[attr-defined]
        images, _ = to_displayable(batch.image, batch.image)
        wrong = [
            (image.cpu(), caption)
            for image, caption in zip(images, captions, strict=True)
            if not caption.right
        ]
        self.found += wrong[: self.pictures - len(self.found)]

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.found and not trainer.fast_dev_run:  # type: ignore[attr-defined]  # Lightning sets it without declaring it
            images, captions = zip(*self.found, strict=True)
            Image.fromarray(gallery(torch.stack(images), captions)).save(
                Path(trainer.default_root_dir) / "misread.png"
            )


def gallery(
    image: Float[Tensor, "pictures 3 height width"],
    captions: tuple[Caption, ...],
    side: int = 96,
    columns: int = 8,
) -> UInt8[np.ndarray, "rows columns 3"]:
    """Pictures with their captions below, side by side."""
    wide, high = side + 8, side + 20
    panel = Image.new(
        "RGB", (min(columns, len(image)) * wide, -(-len(image) // columns) * high), "white"
    )
    for i, (picture, caption) in enumerate(zip(image, captions, strict=True)):
        x, y = i % columns * wide + 4, i // columns * high + 4
        panel.paste(to_rgb_square(picture, side), (x, y))
        ImageDraw.Draw(panel).text((x, y + side + 1), caption.text, fill="black")
    return np.asarray(panel)

"""Draw misclassified test images."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from lightning import Callback, LightningModule, Trainer
from PIL import Image, ImageDraw
from torch import Tensor

from stn_lightning.batch import Batch
from stn_lightning.callbacks.drawings import (
    Caption,
    prediction_captions,
    to_displayable,
    to_rgb_square,
)
from stn_lightning.callbacks.image_loggers import log_image
from stn_lightning.datamodules.base import datamodule_of
from stn_lightning.runtime.atomic_files import only_informs
from stn_lightning.tasks import StepOutput


class MisclassifiedImages(Callback):
    """Draw the first misclassified test images into `misclassified.png`.

    Captions are the class, the predicted class and its probability. The file is written into the
    trainer's `default_root_dir` and sent to all loggers that accept images. With several processes
    only the images of the first process are drawn.

    Args:
        num_images: largest number of images.

    Examples:
        >>> callbacks = [MisclassifiedImages(num_images=12)]
        >>> trainer = Trainer(callbacks=callbacks, logger=False, accelerator="cpu")
    """

    def __init__(self, num_images: int = 48) -> None:
        self.num_images = num_images
        self.images: list[tuple[Tensor, Caption]] = []

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.images = []

    def on_test_batch_end(  # type: ignore[override]  # Lightning types outputs as tensors
        self, trainer: Trainer, _: LightningModule, outputs: StepOutput, batch: Batch, *rest: Any
    ) -> None:
        missing = self.num_images - len(self.images)
        if outputs.logits is None or missing <= 0 or not trainer.is_global_zero:
            return
        captions = prediction_captions(
            outputs.logits, batch.label, datamodule_of(trainer).class_names
        )
        wrong = [i for i, caption in enumerate(captions) if not caption.correct][:missing]
        if wrong:
            images = to_displayable(batch.image[wrong], batch.image[wrong])[0]
            self.images += zip(images.cpu(), [captions[i] for i in wrong], strict=True)

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.images and not trainer.fast_dev_run:  # type: ignore[attr-defined]  # as above
            images, captions = zip(*self.images, strict=True)
            file = Path(trainer.default_root_dir) / "misclassified.png"
            drawn = gallery(torch.stack(images), captions)
            with only_informs(file):
                Image.fromarray(drawn).save(file)
            log_image(trainer, "misclassified", drawn)


def gallery(
    image: Float[Tensor, "images channels *size"],
    captions: tuple[Caption, ...],
    side: int = 96,
    columns: int = 8,
) -> UInt8[np.ndarray, "rows columns 3"]:
    """Draw images with captions below them.

    Args:
        image: images from 0 to 1.
        captions: one for each image.
        side: side of each image in the drawing, in pixels.
        columns: number of images in a row.
    """
    cell_width, cell_height = side + 8, side + 34
    size = min(columns, len(image)) * cell_width, -(-len(image) // columns) * cell_height
    canvas = Image.new("RGB", size, "white")
    for i, (each, caption) in enumerate(zip(image, captions, strict=True)):
        x, y = i % columns * cell_width + 4, i // columns * cell_height + 4
        canvas.paste(to_rgb_square(each, side), (x, y))
        ImageDraw.Draw(canvas).text((x, y + side + 1), caption.text, fill="black")
    return np.asarray(canvas)

"""Draw validation images and their crops after each epoch."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Int64, UInt8
from lightning import Callback, LightningModule, Trainer
from PIL import Image
from torch import Tensor

from stn_lightning.batch import Batch
from stn_lightning.callbacks.drawings import draw, prediction_captions, to_displayable
from stn_lightning.callbacks.image_loggers import log_image
from stn_lightning.datamodules.base import datamodule_of
from stn_lightning.runtime.atomic_files import atomic_write, only_informs
from stn_lightning.tasks import StepOutput
from stn_lightning.transformers import WarpOutput, WarpRecord, compose_records

PANEL = "where it looks"
"""tag of the drawing in the loggers"""
LOGGED = 30
"""number of drawings of a training that are sent to the loggers, approximately"""


class _Example(NamedTuple):
    """Images of a validation batch to draw."""

    image: Tensor
    label: Tensor
    logits: Tensor | None
    warp: WarpOutput


class WarpImages(Callback):
    """Draw validation images and crops after each epoch.

    Each image has the outlines of its crops, with a thicker line for the crop's upper edge, and the
    crops beside it. Below an image are its class, the predicted class and its probability, in red
    if the two differ. Below a crop are its angle, size and position (`crop_caption`).

    Transformers in series are drawn as a single one, their composition. The drawing is written to
    `panel.png` in the trainer's `default_root_dir`. After about thirty of the epochs it is also
    sent to all loggers that accept images. Without a transformer nothing is drawn.

    Args:
        num_images: largest number of images, which are the same after each epoch. They are the
            first ones of each class, or, if there are more classes than this, evenly spread over
            the validation split.

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
        """Return the indices of the batch's images to draw."""
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
            file = Path(trainer.default_root_dir) / "panel.png"  # log_dir waits for processes
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
    """Return which images of a batch to draw.

    Over all batches they are `number` images, evenly spread.

    Args:
        number: number of images.
        batches: number of batches.
        batch: index of this batch.
        size: number of images in it.
    """
    begin, end = (-(-number * i // batches) for i in (batch, batch + 1))
    wanted = min(end - begin, size)
    return [size * k // wanted for k in range(wanted)]


def spread_over_classes(label: Int64[Tensor, "batch *digits"], n: int) -> list[int]:
    """Return the positions of `n` images of all classes.

    They are the first image of each class, then the second of each class, and so on. If labels are
    sequences they are the first `n` images.
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

    They are evenly spread over the training, including the first and the last epoch, so that the
    event files of a long training stay small. Without an end they are the first ten epochs, every
    tenth of the first hundred, and so on.

    Args:
        epoch: number of the epoch, from 0.
        max_epochs: length of the training; None or -1 if it has no end.

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

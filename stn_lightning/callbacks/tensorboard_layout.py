"""Lay out TensorBoard's curves by the question that they answer."""

import textwrap

from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger

LAYOUT = {
    "How good is it?": {
        "validation error, %: with a transformer and without": ["Multiline", ["^val/error$"]],
        "validation loss": ["Multiline", ["^val/loss$"]],
    },
    "Does it learn?": {
        "training error, %": ["Multiline", ["^train/error$"]],
        "training loss": ["Multiline", ["^train/loss$"]],
        "learning rate": ["Multiline", ["^lr-"]],
    },
    "What do the transformers do?": {
        "part of what they read that lies outside the image": ["Multiline", ["/outside$"]],
        "scale: below 1 they look at a part": [
            "Multiline",
            ["/largest_scale$", "/smallest_scale$"],
        ],
        "pixels from the identity": ["Multiline", ["/pixels_from_identity$"]],
        "pixels from picture to picture": ["Multiline", ["/pixels_of_spread$"]],
        "gradient at theta": ["Multiline", ["/gradient$"]],
    },
    "How fast is it?": {
        "images a second": ["Multiline", ["^speed/images_per_second$"]],
        "seconds an epoch": ["Multiline", ["^speed/epoch_seconds$"]],
    },
}
"""Heading -> chart -> the tags, as regular expressions, that it shows of every run."""


class TensorBoardLayout(Callback):
    """Write the layout of TensorBoard's page "Custom scalars", and the network's modules as text.

    Example:
        >>> from lightning import Trainer
        >>> trainer = Trainer(callbacks=[TensorBoardLayout()], logger=False, accelerator="cpu")
    """

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger) and trainer.is_global_zero:
                logger.experiment.add_custom_scalars(LAYOUT)
                modules = textwrap.indent(str(pl_module), "    ")  # code in Markdown
                logger.experiment.add_text("network", modules, trainer.global_step)

"""How TensorBoard lays out the curves: by what one asks of a training, runs above each other."""

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
        "scale: below 1 they look at a part": ["Multiline", ["/largest_scale$", "/smallest_scale$"]],
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


class Board(Callback):
    """Writes the layout of TensorBoard's page "Custom scalars"."""

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger) and trainer.is_global_zero:
                logger.experiment.add_custom_scalars(LAYOUT)

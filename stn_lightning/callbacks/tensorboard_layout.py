"""Group TensorBoard's curves by the question that they answer."""

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
        "part of the samples that is out of bounds": ["Multiline", ["/out_of_bounds$"]],
        "scale: below 1 the crop is a part of the image": [
            "Multiline",
            ["/largest_scale$", "/smallest_scale$"],
        ],
        "displacement from the identity, pixels": ["Multiline", ["/displacement$"]],
        "spread over the images, pixels": ["Multiline", ["/spread$"]],
        "gradient of theta": ["Multiline", ["/gradient$"]],
    },
    "How fast is it?": {
        "images a second": ["Multiline", ["^speed/images_per_second$"]],
        "seconds an epoch": ["Multiline", ["^speed/epoch_seconds$"]],
    },
}
"""for each heading the charts, and for each chart regular expressions of its tags"""


class TensorBoardLayout(Callback):
    """Write the layout of TensorBoard's tab "Custom scalars".

    The modules of the network are written as text, too.

    Examples:
        >>> trainer = Trainer(callbacks=[TensorBoardLayout()], logger=False, accelerator="cpu")
    """

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger) and trainer.is_global_zero:
                logger.experiment.add_custom_scalars(LAYOUT)
                modules = textwrap.indent(str(pl_module), "    ")  # code in Markdown
                logger.experiment.add_text("network", modules, trainer.global_step)

"""How TensorBoard lays out the curves: by what one asks of a training, runs above each other."""

import torch
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy
from tensorboard.compat.proto.event_pb2 import Event

from stn_lightning.callbacks.graph import trace_graph
from stn_lightning.tasks import ClassificationTask

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
    """Writes the layout of TensorBoard's page "Custom scalars" and, of a classification, the
    network's graph.

    The graph is of a training from its start; parameters that are spread over processes cannot be
    looked through by the first one alone.
    """

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        boards = [
            logger
            for logger in trainer.loggers
            if isinstance(logger, TensorBoardLogger) and trainer.is_global_zero
        ]
        for logger in boards:
            logger.experiment.add_custom_scalars(LAYOUT)
        whole = isinstance(trainer.strategy, SingleDeviceStrategy | DDPStrategy)
        if (
            boards
            and whole
            and isinstance(pl_module, ClassificationTask)
            and trainer.ckpt_path is None
        ):
            shape = trainer.datamodule.image_shape  # type: ignore[attr-defined]  # Lightning sets it without declaring it
            graph = trace_graph(
                pl_module, torch.zeros(1, *shape, device=pl_module.device).to(pl_module.dtype)
            )
            for logger in boards:
                logger.experiment.file_writer.add_event(Event(graph_def=graph.SerializeToString()))

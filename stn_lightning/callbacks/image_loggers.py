"""Send drawings to all loggers that accept images."""

import numpy as np
from jaxtyping import UInt8
from lightning import Trainer
from lightning.pytorch.loggers import MLFlowLogger, TensorBoardLogger, WandbLogger


def log_image(trainer: Trainer, tag: str, image: UInt8[np.ndarray, "rows columns 3"]) -> None:
    """Send an image to all loggers that accept images."""
    step = trainer.global_step
    for logger in trainer.loggers:
        if isinstance(logger, TensorBoardLogger):
            logger.experiment.add_image(tag, image, step, dataformats="HWC")
        elif isinstance(logger, WandbLogger):
            logger.log_image(tag, [image], step=step)
        elif isinstance(logger, MLFlowLogger):
            logger.experiment.log_image(logger.run_id, image, key=tag, step=step)

"""Keep a training running if TensorBoard's events cannot be written."""

from pathlib import Path
from typing import Any

from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger

from stn_lightning.runtime.atomic_files import only_informs


class TolerantWriter:
    """TensorBoard's writer, which reports errors instead of raising them.

    Args:
        writer: TensorBoard's writer.
        file: path that the report names.
    """

    def __init__(self, writer: Any, file: Path) -> None:
        self.writer, self.file = writer, file

    def __getattr__(self, name: str) -> Any:
        """Return a method that reports its errors once."""
        method = getattr(self.writer, name)

        def tolerant(*arguments: Any) -> Any:
            with only_informs(self.file):
                return method(*arguments)

        return tolerant


class TolerantEvents(Callback):
    """Report once that events cannot be written, and continue."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if trainer.is_global_zero and isinstance(trainer.logger, TensorBoardLogger):
            writer = trainer.logger.experiment._get_file_writer()  # a new one if it was closed
            if not isinstance(writer.event_writer, TolerantWriter):
                file = Path(trainer.logger.log_dir) / "events.out.tfevents"
                writer.event_writer = TolerantWriter(writer.event_writer, file)

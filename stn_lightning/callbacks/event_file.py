"""TensorBoard's events only inform: a full disk stops no training."""

from pathlib import Path
from typing import Any

from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger

from stn_lightning.runtime.atomic_files import only_informs


class TolerantWriter:
    """A writer of event files that reports an error once.

    Args:
        writer: TensorBoard's.
        file: file to name in the report.
    """

    def __init__(self, writer: Any, file: Path) -> None:
        self.writer, self.file = writer, file

    def __getattr__(self, name: str) -> Any:
        """Return a method that reports errors instead of raising them."""
        method = getattr(self.writer, name)

        def tolerant(*arguments: Any) -> Any:
            with only_informs(self.file):
                return method(*arguments)

        return tolerant


class TolerantEvents(Callback):
    """Report events that cannot be written once, and go on."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if trainer.is_global_zero and isinstance(trainer.logger, TensorBoardLogger):
            writer = trainer.logger.experiment._get_file_writer()  # made anew after it was closed
            if not isinstance(writer.event_writer, TolerantWriter):
                file = Path(trainer.logger.log_dir) / "events.out.tfevents"
                writer.event_writer = TolerantWriter(writer.event_writer, file)

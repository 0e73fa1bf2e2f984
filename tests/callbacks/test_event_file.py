from pathlib import Path

import pytest
from lightning import LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger

from stn_lightning.callbacks import TolerantEvents
from tests.runtime.test_checkpoint_io import files_no_larger_than


@pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnhandledThreadExceptionWarning"
)  # TensorBoard's thread reports its own end
def test_a_disk_that_is_full_for_the_events_is_reported_once_and_stops_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    logger = TensorBoardLogger(tmp_path, version="")
    trainer = Trainer(accelerator="cpu", logger=logger, enable_progress_bar=False)
    for _ in range(2):  # training, then test
        TolerantEvents().setup(trainer, LightningModule(), "fit")
    with files_no_larger_than(1000):
        for step in range(200):
            logger.log_metrics({"loss": 1.0}, step)
            if step % 50 == 0:
                logger.experiment.flush()
        logger.finalize("failed")
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "warning" in line]
    assert line.endswith(
        "events.out.tfevents: File too large; training does not need this file and continues"
    )

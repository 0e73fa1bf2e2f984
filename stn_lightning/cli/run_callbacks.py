"""The callbacks of a run."""

import sys
from pathlib import Path
from typing import Any

from jsonargparse import Namespace
from lightning import Trainer
from lightning.pytorch.callbacks import (
    Callback,
    LearningRateMonitor,
    ProgressBar,
    RichProgressBar,
)

from stn_lightning.callbacks import (
    AlignmentLogger,
    EpochLogger,
    LabelCheck,
    MisclassifiedImages,
    ParameterSummary,
    PartScores,
    PRCurves,
    RecordWriter,
    StatusFile,
    TensorBoardLayout,
    ThroughputLogger,
    TolerantEvents,
    TransformerMonitor,
    WarpImages,
)
from stn_lightning.cli.trainer_options import listed
from stn_lightning.runtime.batch_norm import AverageBatchNorm
from stn_lightning.runtime.checkpointing import AtomicCheckpoint
from stn_lightning.runtime.exact_resume import ExactResume
from stn_lightning.runtime.guards import NonFiniteGuard
from stn_lightning.runtime.preemption import Preemption


class FirstStep(Callback):
    """Record whether a batch has finished.

    Errors before that are reported as mistakes in the configuration.
    """

    def __init__(self) -> None:
        self.done = False

    def on_train_batch_end(self, *_: Any) -> None:
        self.done = True

    def on_validation_batch_end(self, trainer: Trainer, *_: Any) -> None:
        self.done = self.done or not trainer.sanity_checking

    def on_test_batch_end(self, *_: Any) -> None:
        self.done = True


def run_callbacks(
    chosen: Namespace, checkpoints: Path, monitor: str | None, record: RecordWriter
) -> list[Callback]:
    """Return the callbacks of this project for a run.

    Args:
        chosen: the trainer's options.
        checkpoints: folder of the run's checkpoints.
        monitor: metric that chooses the best checkpoint, if any.
        record: callback that writes the run's record.
    """
    callbacks: list[Callback] = [
        ThroughputLogger(),
        AlignmentLogger(),
        WarpImages(),
        MisclassifiedImages(),
        TransformerMonitor(),
        StatusFile(),
        PartScores(),
        NonFiniteGuard(),  # before RecordWriter, which cannot write NaN
        record,
        ExactResume(),
        LabelCheck(),
        AverageBatchNorm(),
    ]
    if chosen["logger"] is not False:
        callbacks += [TolerantEvents(), LearningRateMonitor("step")]
        callbacks += [TensorBoardLayout(), PRCurves()]
    if chosen["enable_checkpointing"] is not False:
        callbacks += [AtomicCheckpoint(checkpoints, monitor), Preemption()]
    if chosen["enable_model_summary"] is not False:
        callbacks.append(ParameterSummary())
    theirs = any(isinstance(each, ProgressBar) for each in listed(chosen["callbacks"]))
    if chosen["enable_progress_bar"] is not False and not theirs:
        callbacks.append(RichProgressBar(leave=True) if sys.stdout.isatty() else EpochLogger())
    return callbacks

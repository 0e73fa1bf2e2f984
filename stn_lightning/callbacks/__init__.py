"""Callbacks that log, draw, check and record a training."""

from stn_lightning.callbacks.alignment import AlignmentLogger
from stn_lightning.callbacks.compile import Compile
from stn_lightning.callbacks.event_file import TolerantEvents
from stn_lightning.callbacks.label_check import LabelCheck
from stn_lightning.callbacks.misclassified_images import MisclassifiedImages
from stn_lightning.callbacks.part_scores import PartScore, PartScores
from stn_lightning.callbacks.pr_curves import PRCurves
from stn_lightning.callbacks.progress import EpochLogger, ParameterSummary
from stn_lightning.callbacks.record_writer import RecordWriter
from stn_lightning.callbacks.status_file import StatusFile
from stn_lightning.callbacks.tensorboard_layout import TensorBoardLayout
from stn_lightning.callbacks.throughput import ThroughputLogger
from stn_lightning.callbacks.transformer_monitor import TransformerMonitor
from stn_lightning.callbacks.warp_images import WarpImages

__all__ = [
    "AlignmentLogger",
    "Compile",
    "EpochLogger",
    "LabelCheck",
    "MisclassifiedImages",
    "PRCurves",
    "ParameterSummary",
    "PartScore",
    "PartScores",
    "RecordWriter",
    "StatusFile",
    "TensorBoardLayout",
    "ThroughputLogger",
    "TolerantEvents",
    "TransformerMonitor",
    "WarpImages",
]

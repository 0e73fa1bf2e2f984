"""What is looked at, written down and guarded while it trains."""

from stn_lightning.callbacks.batch_norm import AverageBatchNorm
from stn_lightning.callbacks.board import Board
from stn_lightning.callbacks.checkpoints import Checkpoints
from stn_lightning.callbacks.compile import Compile
from stn_lightning.callbacks.exact_state import ExactState
from stn_lightning.callbacks.guards import FiniteGuard, LabelGuard, NonFiniteError
from stn_lightning.callbacks.instruments import Instruments
from stn_lightning.callbacks.misread import Misread
from stn_lightning.callbacks.panel import Panel
from stn_lightning.callbacks.parts import PartScore, PartScores
from stn_lightning.callbacks.precision_recall import PrecisionRecall
from stn_lightning.callbacks.preemption import Preempted, Preemption
from stn_lightning.callbacks.progress import EpochLines, Summary
from stn_lightning.callbacks.results import Results
from stn_lightning.callbacks.state import RunState
from stn_lightning.callbacks.throughput import Throughput

__all__ = [
    "AverageBatchNorm",
    "Board",
    "Checkpoints",
    "Compile",
    "EpochLines",
    "ExactState",
    "FiniteGuard",
    "Instruments",
    "LabelGuard",
    "Misread",
    "NonFiniteError",
    "Panel",
    "PartScore",
    "PartScores",
    "PrecisionRecall",
    "Preempted",
    "Preemption",
    "Results",
    "RunState",
    "Summary",
    "Throughput",
]

"""LightningModules of transformer, backbone, loss, metrics and optimiser."""

from stn_lightning.tasks.classification import ClassificationTask
from stn_lightning.tasks.colocalisation import ColocalisationTask
from stn_lightning.tasks.digit_sequence import DigitSequenceTask
from stn_lightning.tasks.distillation import DistillationTask
from stn_lightning.tasks.equivariance import Equivariance
from stn_lightning.tasks.metrics import ErrorRate, MeanCrossEntropy, Samples
from stn_lightning.tasks.schedules import ConstantLR, CosineDecay, Schedule, StepDecay
from stn_lightning.tasks.step_output import StepOutput

__all__ = [
    "ClassificationTask",
    "ColocalisationTask",
    "ConstantLR",
    "CosineDecay",
    "DigitSequenceTask",
    "DistillationTask",
    "Equivariance",
    "ErrorRate",
    "MeanCrossEntropy",
    "Samples",
    "Schedule",
    "StepDecay",
    "StepOutput",
]

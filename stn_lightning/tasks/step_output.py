"""The output of validation and test steps."""

from typing import NamedTuple

from torch import Tensor

from stn_lightning.transformers import WarpRecord


class StepOutput(NamedTuple):
    """The output of a step, which callbacks use."""

    logits: Tensor | None
    """(batch, *digits, classes); None if the task does not classify"""
    records: list[WarpRecord]
    """Records of all transformers of the task, in the order in which they were called."""

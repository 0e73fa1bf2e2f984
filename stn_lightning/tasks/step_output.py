"""What validation and test steps give to callbacks."""

from typing import NamedTuple

from torch import Tensor

from stn_lightning.transformers import WarpRecord


class StepOutput(NamedTuple):
    """The result of a validation or test step, so that callbacks compute nothing again."""

    logits: Tensor | None
    """(batch, *digits, classes); None where the task does not classify"""
    records: list[WarpRecord]
    """of all transformers in the task, in the order in which they ran"""

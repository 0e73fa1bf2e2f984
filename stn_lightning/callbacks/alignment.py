"""Log how well a transformer undoes a known distortion."""

import math
from typing import Any

import torch
from jaxtyping import Float
from lightning import Callback, LightningModule, Trainer
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from stn_lightning.batch import Batch, Split
from stn_lightning.datamodules.base import datamodule_of
from stn_lightning.geometry import alignment
from stn_lightning.geometry.alignment import Agreement, Pose
from stn_lightning.shapes import Grids
from stn_lightning.tasks import StepOutput


class PoseAlignment(Metric):
    """Agreement of the crops' poses with the applied ones.

    It stores 8 numbers in float64 for each image, since the means that are subtracted are known
    only at the end.
    """

    full_state_update = False
    poses: list[Tensor]

    def __init__(self) -> None:
        super().__init__()
        self.add_state("poses", [], dist_reduce_fx="cat")

    def update(
        self, applied: Float[Tensor, "batch 6"], grid: Grids, image_size: tuple[int, ...]
    ) -> None:
        """Add the poses of a batch, which may be empty.

        Args:
            applied: theta of the distortion, which maps the distorted image to the original.
            grid: sampling grid of the crop, of any family.
            image_size: (height, width) of the distorted image.
        """
        crop = alignment.pose(alignment.nearest_affine(grid), image_size)
        given = alignment.applied_pose(applied, image_size)
        self.poses.append(torch.cat([*given, *crop], 1))

    def compute(self) -> dict[str, Agreement]:
        applied, crop = dim_zero_cat(self.poses).split(4, 1)
        return alignment.compare(*(Pose(*each.split([1, 1, 2], 1)) for each in (applied, crop)))


UNITS = {"angle": "degrees", "scale": "factor", "place": "pixels"}
"""Units of the errors."""


class AlignmentLogger(Callback):
    """Log the transformer's alignment in validation and test.

    `val/alignment_angle`, `_scale` and `_place` are correlations between the pose of the crop and
    the applied distortion: 1 if the transformer undoes the distortion, 0 if its crops do not vary.
    `val/alignment_angle_degrees`, `_scale_factor` and `_place_pixels` are mean absolute errors.
    Quantities that the distortion does not change (scale and place for R) are not logged.

    It needs a data module with `applied_theta`, and a task with a single transformer in front of
    its backbone, whose crops have two rows and columns or more; otherwise nothing is logged. Grids
    are taken from the output of the step.

    Examples:
        >>> trainer = Trainer(callbacks=[AlignmentLogger()], logger=False, accelerator="cpu")
    """

    def __init__(self) -> None:
        self.alignment = PoseAlignment()

    def on_validation_batch_end(  # type: ignore[override]  # Lightning types outputs as tensors
        self, trainer: Trainer, task: LightningModule, outputs: StepOutput, batch: Batch, *rest: Any
    ) -> None:
        transformer = getattr(task, "transformer", None)
        grids = [each.grids for each in outputs.records if each.transformer is transformer]
        if not grids or grids[0].shape[1] > 1 or min(grids[0].shape[2:-1]) < 2:  # has no angle
            return
        applied = datamodule_of(trainer).applied_theta(batch)
        if applied is not None:
            size = tuple(batch.image.shape[2:])
            self.alignment.update(applied, grids[0][:, 0], size)

    on_test_batch_end = on_validation_batch_end  # type: ignore[assignment]  # as above

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._log(pl_module, "val")

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._log(pl_module, "test")

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.alignment.reset()  # poses of an epoch that was interrupted

    on_test_epoch_start = on_validation_epoch_start

    def _log(self, pl_module: LightningModule, split: Split) -> None:
        if not self.alignment.update_called:
            return
        for name, agreement in self.alignment.compute().items():  # over all processes
            if math.isfinite(agreement.correlation):
                values = {"": agreement.correlation, f"_{UNITS[name]}": agreement.error}
                for suffix, value in values.items():
                    pl_module.log(f"{split}/alignment_{name}{suffix}", value, sync_dist=True)

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
from stn_lightning.geometry import alignment
from stn_lightning.geometry.alignment import Agreement, Pose
from stn_lightning.tasks import StepOutput


class PoseAlignment(Metric):
    """Agreement of the crops' poses with the applied ones.

    Kept are 8 numbers in float64 for each image: what is left of an angle, a scale or a place is
    measured around its mean over all images, which is known at the end.
    """

    full_state_update = False
    poses: list[Tensor]

    def __init__(self) -> None:
        super().__init__()
        self.add_state("poses", [], dist_reduce_fx="cat")

    def update(
        self,
        applied: Float[Tensor, "batch 6"],
        grid: Float[Tensor, "batch height width 2"],
        image_size: tuple[int, ...],
    ) -> None:
        """Add the poses of a batch, which may be empty.

        Args:
            applied: theta of the distortion, distorted image -> original.
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
"""What an error is measured in."""


class AlignmentLogger(Callback):
    """Log the transformer's alignment in validation and test.

    `val/alignment_angle`, `_scale` and `_place` are correlations of what the crop undoes with what
    was applied: 1 for a transformer that undoes the distortion, 0 for one that stays still.
    `val/alignment_angle_degrees`, `_scale_factor` and `_place_pixels` are the mean absolute errors.
    Quantities that the distortion does not change (scale and place for R) are not logged.

    For data modules whose `applied_theta` knows the distortion, and a task with one transformer in
    front of its backbone that reads one crop; else it does nothing. Nothing is computed again: the
    grids are those of the step's output.

    Examples:
        >>> trainer = Trainer(callbacks=[AlignmentLogger()], logger=False, accelerator="cpu")
    """

    def __init__(self) -> None:
        self.alignment = PoseAlignment()

    def on_validation_batch_end(  # type: ignore[override]  # Lightning types outputs as tensors
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: StepOutput,
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        data: Any = trainer.datamodule  # type: ignore[attr-defined]  # Lightning sets it without declaring it
        transformer = getattr(pl_module, "transformer", None)
        grids = [each.grids for each in outputs.records if each.transformer is transformer]
        applied = data.applied_theta(batch) if grids and grids[0].shape[1] == 1 else None
        if applied is not None:
            size = tuple(batch.image.shape[2:])
            self.alignment.update(applied, grids[0][:, 0], size)

    on_test_batch_end = on_validation_batch_end  # type: ignore[assignment]  # as above

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._log(pl_module, "val")

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._log(pl_module, "test")

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.alignment.reset()  # an epoch that was broken off leaves poses behind

    on_test_epoch_start = on_validation_epoch_start

    def _log(self, pl_module: LightningModule, split: Split) -> None:
        if not self.alignment.update_called:
            return
        for name, agreement in self.alignment.compute().items():  # waits for the other processes
            if math.isfinite(agreement.correlation):
                values = {"": agreement.correlation, f"_{UNITS[name]}": agreement.error}
                for suffix, value in values.items():
                    pl_module.log(f"{split}/alignment_{name}{suffix}", value, sync_dist=True)

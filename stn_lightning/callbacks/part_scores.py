"""Score which annotated parts crops contain.

In the paper one transformer finds heads and another bodies.

Reference:
    Jaderberg et al. 2015, section 4.3 and figure 3.
"""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int64
from lightning import Callback, LightningModule, Trainer
from PIL import Image
from torch import Tensor
from torchmetrics import Metric

from stn_lightning.batch import Batch
from stn_lightning.callbacks.part_tables import FILE, PartShares, PartTables
from stn_lightning.datamodules.base import BatchAnnotations, datamodule_of
from stn_lightning.geometry.overlap import contains_points, intersection_over_union
from stn_lightning.runtime.atomic_files import only_informs
from stn_lightning.tasks import StepOutput

OUTLINE = 64
"""Height and width of the grid from which a crop's outline is computed."""
SMALLEST_KIND = 3
"""Smallest number of classes in a class group with scores of its own; smaller groups are pooled."""
OTHERS = "others"


class PartScore(Metric):
    """Count how often crops contain parts, and how they overlap.

    A crop holds a group of parts if it contains at least half of the visible parts of the group.
    Images without a visible part of the group do not count.

    Args:
        num_transformers: number of crops of each image.
        num_parts: number of annotated parts.
        groups: indices of the parts of each group.
        num_kinds: number of kinds of images for which `held` is counted separately.

    Examples:
        >>> from stn_lightning.geometry import affine
        >>> left_half = affine.grid(torch.tensor([[0.5, 0, -0.5, 0, 1, 0]]), (8, 8))
        >>> score = PartScore(num_transformers=1, num_parts=2)
        >>> score.update(left_half[:, None], torch.tensor([[[-0.5, 0, 1], [0.5, 0, 1]]]))
        >>> score.compute().contained
        tensor([[1., 0.]], dtype=torch.float64)
    """

    full_state_update = False
    contained: Tensor
    visible: Tensor
    overlap: Tensor
    images: Tensor
    held: Tensor
    any_part: Tensor
    mean_share: Tensor
    group_images: Tensor

    def __init__(
        self,
        num_transformers: int,
        num_parts: int,
        groups: Sequence[Sequence[int]] = (),
        num_kinds: int = 1,
    ) -> None:
        super().__init__()
        self.groups = [list(group) for group in groups]
        n, parts, k = num_transformers, num_parts, len(self.groups)
        sizes: dict[str, tuple[int, ...]] = {
            "contained": (n, parts),
            "visible": (parts,),
            "overlap": (n, n),
            "images": (num_kinds,),
            "held": (num_kinds, n, k),
            "any_part": (num_kinds, n, k),
            "mean_share": (num_kinds, n, k),
            "group_images": (num_kinds, 1, k),
        }
        for name, size in sizes.items():
            self.add_state(name, torch.zeros(size, dtype=torch.float64), dist_reduce_fx="sum")

    def update(
        self,
        grids: Float[Tensor, "batch n height width 2"],
        parts: Float[Tensor, "batch parts 3"],
        kind: Int64[Tensor, " batch"] | None = None,
    ) -> None:
        """Add a batch, which may be empty.

        Args:
            grids: sampling grids of the crops.
            parts: (x, y, visible) of each part.
            kind: index of each image's kind; 0 when left out.
        """
        n = grids.shape[1]
        kind = torch.zeros_like(parts[:, 0, 0], dtype=torch.int64) if kind is None else kind
        points = parts[:, None, :, :2].expand(-1, n, -1, -1).flatten(0, 1)
        inside = contains_points(grids.flatten(0, 1), points).unflatten(0, (-1, n))
        self.contained += (inside * parts[:, None, :, 2]).sum(0)
        self.visible += parts[..., 2].sum(0)
        self.overlap += intersection_over_union(grids).sum(0)
        self.images += kind.bincount(minlength=len(self.images))
        for k, group in enumerate(self.groups):
            visible = parts[:, None, group, 2]
            number = visible.sum(2)  # (B, 1)
            share = (inside[:, :, group] * visible).sum(2) / number.clamp(min=1)  # (B, n)
            counts = {
                "held": (share >= 0.5) & (number > 0),
                "any_part": share > 0,
                "mean_share": share,
                "group_images": number > 0,
            }
            for name, values in counts.items():
                getattr(self, name)[:, :, k].index_add_(0, kind, values.double())

    def compute(self) -> PartShares:
        images = self.group_images.sum(0).clamp(min=1)
        return PartShares(
            contained=self.contained / self.visible.clamp(min=1),
            overlap=self.overlap / self.images.sum().clamp(min=1),
            held=self.held.sum(0) / images,
            any_part=self.any_part.sum(0) / images,
            mean_share=self.mean_share.sum(0) / images,
            held_of=self.held / self.group_images.clamp(min=1),
            images_of=self.images,
        )

    def in_shape(self, shares: PartShares) -> PartShares:
        """Restore the shapes of results; torchmetrics squeezes them."""
        n, parts = self.contained.shape
        kinds, _, k = self.held.shape
        sizes = [(n, parts), (n, n), (n, k), (n, k), (n, k), (kinds, n, k), (kinds,)]
        pairs = zip(shares, sizes, strict=True)
        return PartShares(*(values.cpu().reshape(size) for values, size in pairs))


class PartScores(Callback):
    """Score which annotated parts crops contain, on the test images.

    The crops are those of the last transformer, the parts are from the data module's `annotations`.
    Without annotations nothing is done. For each group of parts and each crop two percentages of
    the images are logged: for the group "head" and the first crop `test/head_crop_1`, of images
    whose crop contains at least half of the visible head parts, and `test/head_any_crop_1`, of
    images whose crop contains at least one. `test/crop_overlap` is the mean intersection over union
    of two crops. `parts.json`, `parts.md` and `parts.png` are written into the trainer's
    `default_root_dir`.

    Examples:
        >>> trainer = Trainer(callbacks=[PartScores()], logger=False, accelerator="cpu")
    """

    def __init__(self) -> None:
        self.score: PartScore | None = None
        self.part_names: list[str] = []
        self.group_names: list[str] = []
        self.kinds: list[str] = []
        self.kind_of_class = torch.zeros(0, dtype=torch.int64)

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.score = None

    def on_test_batch_end(  # type: ignore[override]  # Lightning types outputs as tensors
        self, trainer: Trainer, task: LightningModule, outputs: StepOutput, batch: Batch, *rest: Any
    ) -> None:
        data = datamodule_of(trainer)
        known = data.annotations(batch) if outputs.records else None
        if known is None or not known.part_names:
            return
        record = outputs.records[-1]
        if self.score is None:
            score = self._begin(known, data.class_groups, record.grids.shape[1])
            self.score = score.to(task.device)
        # outlines pass through the outermost pixels' centres, which cuts off much of a coarse grid
        grids = record.grids_of_size((OUTLINE, OUTLINE))
        kind = self.kind_of_class.to(batch.label.device)[batch.label] if self.kinds else None
        self.score.update(grids.float(), known.parts.float(), kind)

    def _begin(
        self, known: BatchAnnotations, class_groups: Sequence[str], num_transformers: int
    ) -> PartScore:
        self.part_names, self.group_names = list(known.part_names), list(known.part_groups)
        groups = [
            [i for i, name in enumerate(known.part_names) if name in group]
            for group in known.part_groups.values()
        ]
        classes = Counter(class_groups)
        kinds = [name if classes[name] >= SMALLEST_KIND else OTHERS for name in class_groups]
        self.kinds = sorted(set(kinds))
        self.kind_of_class = torch.tensor([self.kinds.index(name) for name in kinds])
        num_kinds = max(len(self.kinds), 1)
        return PartScore(num_transformers, len(self.part_names), groups, num_kinds)

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.score is None:
            return
        shares = self.score.in_shape(self.score.compute())  # over all processes
        tables = PartTables(self.part_names, self.group_names, self.kinds, shares)
        for name, value in tables.metrics().items():
            pl_module.log(f"test/{name}", value, sync_dist=True)
        file = Path(trainer.default_root_dir) / FILE
        if trainer.is_global_zero:
            with only_informs(file):
                tables.write(file)
                file.with_suffix(".md").write_text(tables.markdown())
                Image.fromarray(tables.draw()).save(file.with_suffix(".png"))

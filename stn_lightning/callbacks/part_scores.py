"""Score which annotated parts crops contain.

The paper saw one transformer find heads, another bodies.

Reference:
    Jaderberg et al. 2015, section 4.3 and figure 3.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, UInt8
from lightning import Callback, LightningModule, Trainer
from PIL import Image, ImageDraw
from torch import Tensor
from torchmetrics import Metric

from stn_lightning.batch import Batch
from stn_lightning.datamodules.base import datamodule_of
from stn_lightning.geometry.overlap import contains_points, intersection_over_union
from stn_lightning.runtime.atomic_files import only_informs
from stn_lightning.tasks import StepOutput

OUTLINE = 64
"""Pixels along a side of the grid whose outline stands for a crop's."""


class PartShares(NamedTuple):
    """Shares, from 0 to 1, of what crops contain."""

    contained: Float[Tensor, "transformers parts"]
    """of the images that show a part, those whose crop contains it"""
    overlap: Float[Tensor, "transformers transformers"]
    """mean intersection over union of two crops"""
    held: Float[Tensor, "transformers groups"]
    """of the images that show parts of a group, those whose crop contains at least half of them"""
    mean_share: Float[Tensor, "transformers groups"]
    """mean over those images of the share of the group's visible parts that a crop contains"""


class PartScore(Metric):
    """Count how often crops contain parts, and their overlap.

    A crop holds a group of parts in an image where it contains at least half of the group's visible
    parts. An image without a visible part of the group does not count.

    Args:
        num_transformers: crops of each image.
        num_parts: parts that may be visible in an image.
        groups: for each group, the indices of its parts.

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
    mean_share: Tensor
    group_images: Tensor

    def __init__(
        self, num_transformers: int, num_parts: int, groups: Sequence[Sequence[int]] = ()
    ) -> None:
        super().__init__()
        self.groups = [list(group) for group in groups]
        n, parts, k = num_transformers, num_parts, len(self.groups)
        sizes: dict[str, tuple[int, ...]] = {
            "contained": (n, parts),
            "visible": (parts,),
            "overlap": (n, n),
            "held": (n, k),
            "mean_share": (n, k),
            "group_images": (k,),
        }
        for name, size in sizes.items():
            self.add_state(name, torch.zeros(size, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("images", torch.tensor(0), dist_reduce_fx="sum")

    def update(
        self, grids: Float[Tensor, "batch n height width 2"], parts: Float[Tensor, "batch parts 3"]
    ) -> None:
        """Add a batch, which may be empty.

        Args:
            grids: sampling grids of the crops.
            parts: (x, y, visible) of each part.
        """
        n = grids.shape[1]
        points = parts[:, None, :, :2].expand(-1, n, -1, -1).flatten(0, 1)
        inside = contains_points(grids.flatten(0, 1), points).unflatten(0, (-1, n))
        self.contained += (inside * parts[:, None, :, 2]).sum(0)
        self.visible += parts[..., 2].sum(0)
        self.overlap += intersection_over_union(grids).sum(0)
        self.images += len(grids)
        for k, group in enumerate(self.groups):
            visible = parts[:, group, 2]
            number = visible.sum(1)  # (B,)
            share = (inside[:, :, group] * visible[:, None]).sum(2) / number.clamp(min=1)[:, None]
            self.held[:, k] += ((share >= 0.5) & (number > 0)[:, None]).sum(0)
            self.mean_share[:, k] += share.sum(0)
            self.group_images[k] += (number > 0).sum()

    def compute(self) -> PartShares:
        images = self.group_images.clamp(min=1)
        return PartShares(
            self.contained / self.visible.clamp(min=1),
            self.overlap / self.images.clamp(min=1),
            self.held / images,
            self.mean_share / images,
        )


class PartScores(Callback):
    """Score which parts the last transformer's crops contain, in tests.

    `parts.json`, `parts.md` and `parts.png` go into the trainer's `default_root_dir`. Parts come
    from the data module's `annotations`; without them nothing is done. No training uses them.

    Examples:
        >>> trainer = Trainer(callbacks=[PartScores()], logger=False, accelerator="cpu")
    """

    def __init__(self) -> None:
        self.score: PartScore | None = None
        self.part_names: list[str] = []
        self.group_names: list[str] = []

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.score = None

    def on_test_batch_end(  # type: ignore[override]  # Lightning types outputs as tensors
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: StepOutput,
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        known = datamodule_of(trainer).annotations(batch) if outputs.records else None
        if known is None or not known.part_names:
            return
        record = outputs.records[-1]
        if self.score is None:
            self.part_names, self.group_names = list(known.part_names), list(known.part_groups)
            groups = [
                [i for i, name in enumerate(known.part_names) if name in group]
                for group in known.part_groups.values()
            ]
            self.score = PartScore(record.grids.shape[1], len(self.part_names), groups)
            self.score.to(pl_module.device)
        # an outline runs through the centres of the outermost pixels: few pixels would cut its rim
        grids = record.grids_of_size((OUTLINE, OUTLINE))
        self.score.update(grids.float(), known.parts.float())

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.score is None:
            return
        # waits for the other processes
        shares = PartShares(*(values.cpu() for values in self.score.compute()))
        if not trainer.is_global_zero:
            return
        names = self.part_names
        folder = Path(trainer.default_root_dir)
        scores = {
            "parts": names,
            "groups": self.group_names,
            **{name: values.tolist() for name, values in shares._asdict().items()},
            "images": int(self.score.images),
        }
        with only_informs(folder / "parts.json"):
            (folder / "parts.json").write_text(json.dumps(scores, indent=2) + "\n")
            (folder / "parts.md").write_text(table(names, self.group_names, shares))
            Image.fromarray(draw_table(names, shares.contained)).save(folder / "parts.png")


def table(names: Sequence[str], groups: Sequence[str], shares: PartShares) -> str:
    """Format shares of parts and groups, and overlaps, as Markdown."""
    n = len(shares.contained)

    def row(name: str, values: Float[Tensor, " transformers"]) -> str:
        return f"| {name} |" + "".join(f" {100 * value:.1f} |" for value in values)

    def head(title: str) -> list[str]:
        crops = "".join(f" crop {i + 1} |" for i in range(n))
        return [f"| {title} |{crops}", "|---|" + "---|" * n]

    lines = [*head("part"), *map(row, names, shares.contained.unbind(1))]
    if groups:
        lines += ["", *head("at least half of the visible parts of")]
        lines += map(row, groups, shares.held.unbind(1))
        lines += ["", *head("mean share of the visible parts of")]
        lines += map(row, groups, shares.mean_share.unbind(1))
    pairs = [
        f"crops {i + 1} and {j + 1}: {shares.overlap[i, j]:.2f}"
        for i in range(n)
        for j in range(i + 1, n)
    ]
    overlaps = f"Intersection over union: {', '.join(pairs) or 'one crop'}."
    return "\n".join([*lines, "", overlaps, ""])


def draw_table(
    names: list[str], contained: Float[Tensor, "transformers parts"]
) -> UInt8[np.ndarray, "height width 3"]:
    """Draw the scores as squares, dark where they are high."""
    side, left, top = 48, 90, 20
    canvas = Image.new(
        "RGB", (left + side * len(contained) + 4, top + side * len(names) + 4), "white"
    )
    pen = ImageDraw.Draw(canvas)
    for i, row in enumerate(contained.tolist()):
        pen.text((left + side * i + 4, 4), f"crop {i + 1}", fill="black")
        for k, value in enumerate(row):
            x, y, shade = left + side * i, top + side * k, round(255 * (1 - value))
            pen.rectangle((x, y, x + side - 2, y + side - 2), fill=(shade, shade, 255))
            pen.text(
                (x + 12, y + 18), f"{100 * value:.0f} %", fill="white" if value > 0.5 else "black"
            )
    for k, name in enumerate(names):
        pen.text((4, top + side * k + 18), name, fill="black")
    return np.asarray(canvas)

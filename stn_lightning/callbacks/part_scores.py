"""Score which annotated parts the crops contain: the paper saw one find heads, another bodies.

Reference:
    Jaderberg et al. 2015, section 4.3 and figure 3.
"""

import json
from pathlib import Path

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


class PartScore(Metric):
    """Count how often crops contain parts, and how much crops overlap.

    Args:
        num_transformers: crops of each image.
        num_parts: parts that may be visible in an image.

    Example:
        >>> from stn_lightning.geometry import affine
        >>> left_half = affine.grid(torch.tensor([[0.5, 0, -0.5, 0, 1, 0]]), (8, 8))
        >>> score = PartScore(num_transformers=1, num_parts=2)
        >>> score.update(left_half[:, None], torch.tensor([[[-0.5, 0, 1], [0.5, 0, 1]]]))
        >>> score.compute()[0]
        tensor([[1., 0.]], dtype=torch.float64)
    """

    full_state_update = False
    contained: Tensor
    visible: Tensor
    overlap: Tensor
    images: Tensor

    def __init__(self, num_transformers: int, num_parts: int) -> None:
        super().__init__()
        n, parts = num_transformers, num_parts
        for name, size in {"contained": (n, parts), "visible": (parts,), "overlap": (n, n)}.items():
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

    def compute(
        self,
    ) -> tuple[Float[Tensor, "transformers parts"], Float[Tensor, "transformers transformers"]]:
        """Return how often each crop contains each visible part, and the crops' mean overlap."""
        return self.contained / self.visible.clamp(min=1), self.overlap / self.images.clamp(min=1)


class PartScores(Callback):
    """Score which parts the crops of the task's transformer contain, during a test.

    `parts.json`, `parts.md` and `parts.png` go into the trainer's `default_root_dir`. Parts come
    from the data module's `annotations`; without them nothing is done. No training uses them.

    Example:
        >>> trainer = Trainer(callbacks=[PartScores()], logger=False, accelerator="cpu")
    """

    def __init__(self) -> None:
        self.score: PartScore | None = None
        self.part_names: list[str] = []

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
        transformer = getattr(pl_module, "transformer", None)
        grids = [each.grids for each in outputs.records if each.transformer is transformer]
        known = datamodule_of(trainer).annotations(batch) if grids else None
        if known is None or not known.part_names:
            return
        if self.score is None:
            self.part_names = list(known.part_names)
            self.score = PartScore(grids[-1].shape[1], len(known.part_names)).to(pl_module.device)
        self.score.update(grids[-1].float(), known.parts.float())

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.score is None:
            return
        # waits for the other processes
        contained, overlap = (values.cpu() for values in self.score.compute())
        if not trainer.is_global_zero:
            return
        names = self.part_names
        folder = Path(trainer.default_root_dir)
        scores = {
            "parts": names,
            "contained": contained.tolist(),
            "overlap": overlap.tolist(),
            "images": int(self.score.images),
        }
        with only_informs(folder / "parts.json"):
            (folder / "parts.json").write_text(json.dumps(scores, indent=2) + "\n")
            (folder / "parts.md").write_text(table(names, contained, overlap))
            Image.fromarray(draw_table(names, contained)).save(folder / "parts.png")


def table(
    names: list[str],
    contained: Float[Tensor, "transformers parts"],
    overlap: Float[Tensor, "transformers transformers"],
) -> str:
    """Return a Markdown table of how often crops contain visible parts, and their overlaps."""
    n = len(contained)
    head = ["| part |" + "".join(f" crop {i + 1} |" for i in range(n)), "|---|" + "---|" * n]
    rows = [
        f"| {name} |" + "".join(f" {100 * value:.1f} |" for value in contained[:, k])
        for k, name in enumerate(names)
    ]
    pairs = [
        f"crops {i + 1} and {j + 1}: {overlap[i, j]:.2f}" for i in range(n) for j in range(i + 1, n)
    ]
    return "\n".join(
        [*head, *rows, "", f"Intersection over union: {', '.join(pairs) or 'one crop'}.", ""]
    )


def draw_table(
    names: list[str], contained: Float[Tensor, "transformers parts"]
) -> UInt8[np.ndarray, "height width 3"]:
    """Draw the table as squares: the darker, the more often a crop contains the part."""
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

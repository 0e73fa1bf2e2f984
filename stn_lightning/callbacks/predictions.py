"""What a network says about pictures, as a table."""

import csv
from pathlib import Path
from typing import Any

from lightning import Callback, LightningModule, Trainer
from torch import Tensor

from stn_lightning.batch import Batch


class Predictions(Callback):
    """During a prediction, writes `predictions.csv` into the default_root_dir: picture, its class, the probability of each class.

    Pictures are files' names where the data module has `to_predict`, else numbers. Each further process writes a file of its own.
    """

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        data: Any = trainer.datamodule  # type: ignore[attr-defined]  # Lightning sets it without declaring it
        self.classes = data.classes
        self.names = data.to_predict().names if hasattr(data, "to_predict") else None
        name = "predictions.csv" if trainer.is_global_zero else f"predictions.{trainer.global_rank}.csv"
        self.path = Path(trainer.default_root_dir) / name
        with self.path.open("w", newline="") as file:
            csv.writer(file, lineterminator="\n").writerow(["file" if self.names else "picture", "class", *self.classes])

    def on_predict_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Tensor, batch: Batch, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        with self.path.open("a", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            for index, row in zip(batch.indices.tolist(), outputs.tolist(), strict=True):
                best = self.classes[row.index(max(row))]
                writer.writerow([self.names[index] if self.names else index, best, *(f"{value:.4f}" for value in row)])

"""What a network says about pictures, as a table."""

import csv
from pathlib import Path
from typing import Any

from lightning import Callback, LightningModule, Trainer
from torch import Tensor

from stn_lightning.batch import Batch


class Predictions(Callback):
    """During a prediction, writes `predictions.csv` into the default_root_dir: picture, its class, the probability of each class;
    of a sequence of digits: picture, number, the probability of all its digits together.

    Pictures are files' names where the data module has `to_predict`, else numbers. Each further process writes a file of its own.
    """

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        data: Any = trainer.datamodule  # type: ignore[attr-defined]  # Lightning sets it without declaring it
        self.classes = data.classes
        self.names = data.to_predict().names if hasattr(data, "to_predict") else None
        name = "predictions.csv" if trainer.is_global_zero else f"predictions.{trainer.global_rank}.csv"
        self.path = Path(trainer.default_root_dir) / name
        self.path.unlink(missing_ok=True)

    def on_predict_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Tensor, batch: Batch, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        sequences = outputs.dim() == 3  # (batch, digits, classes)
        best = outputs.max(-1)
        numbers = outputs if not sequences else best.values.prod(1, keepdim=True)
        with self.path.open("a", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            if not file.tell():
                columns = ["number", "probability"] if sequences else ["class", *self.classes]
                writer.writerow(["file" if self.names else "picture", *columns])
            for index, said, row in zip(batch.indices.tolist(), best.indices.tolist(), numbers.tolist(), strict=True):
                name = "".join(self.classes[i] for i in said) if sequences else self.classes[said]
                writer.writerow([self.names[index] if self.names else index, name, *(f"{value:.4f}" for value in row)])

"""A process may get no image of a batch: every callback takes a batch of 0."""

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import Callback, Trainer
from lightning.pytorch.loggers import TensorBoardLogger

from stn_lightning.backbones import MultiCropClassifier, SmallConvNet
from stn_lightning.batch import Batch
from stn_lightning.callbacks import (
    AlignmentLogger,
    LabelCheck,
    MisclassifiedImages,
    PartScores,
    PRCurves,
    ThroughputLogger,
    TransformerMonitor,
    WarpImages,
)
from stn_lightning.datamodules import MNISTDataModule
from stn_lightning.synthetic import DigitPairs
from stn_lightning.tasks import ClassificationTask, StepOutput
from stn_lightning.transformers import (
    FullyConnectedLocalisation,
    ParallelTransformer,
    Tiling,
    Translation,
    record_warps,
)

CALLBACKS: list[type[Callback]] = [
    AlignmentLogger,
    LabelCheck,
    MisclassifiedImages,
    PartScores,
    PRCurves,
    ThroughputLogger,
    TransformerMonitor,
    WarpImages,
]


@pytest.mark.parametrize("kind", CALLBACKS)
def test_a_batch_without_images_is_taken_in_training_validation_and_test(
    kind: type[Callback], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    transformer = ParallelTransformer(
        FullyConnectedLocalisation([4]), Translation(0.5), 2, (24, 24), start=Tiling()
    )
    backbone = MultiCropClassifier(SmallConvNet((4, 4)), 2, num_classes=9)
    task = ClassificationTask(backbone, lambda p: torch.optim.SGD(p, 0.1), transformer).eval()
    task(torch.rand(1, 3, 40, 40))
    trainer = Trainer(
        accelerator="cpu",
        devices=1,
        logger=TensorBoardLogger(tmp_path, "", ""),
        default_root_dir=tmp_path,
        log_every_n_steps=1,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    data = MNISTDataModule(DigitPairs(20), batch_size=16)
    data.setup("test")
    trainer.datamodule = data  # type: ignore[attr-defined]
    trainer.strategy.connect(task)
    monkeypatch.setattr(task, "log", lambda *_, **__: None)  # the trainer does not run
    callback: Any = kind()
    none = torch.zeros(0, dtype=torch.long)
    for split in ("train", "val", "test"):
        batch = Batch(torch.zeros(0, 3, 40, 40), none, none, 0, 0.0, split)
        stage = "validation" if split == "val" else split
        for hook in ("start", "epoch_start"):
            getattr(callback, f"on_{stage}_{hook}")(trainer, task)
        getattr(callback, f"on_{stage}_batch_start")(trainer, task, batch, 0)
        with record_warps(task) as records:
            logits = task(batch.image)
        output = {"loss": logits.sum()} if split == "train" else StepOutput(logits, records)
        getattr(callback, f"on_{stage}_batch_end")(trainer, task, output, batch, 0)
        getattr(callback, f"on_{stage}_epoch_end")(trainer, task)
    callback.on_train_end(trainer, task)
    callback.on_test_end(trainer, task)
    drawn = {file.name for file in tmp_path.glob("*.png")}
    assert drawn <= {"parts.png"}, "a table of 0 %"

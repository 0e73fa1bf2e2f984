"""Callbacks that watch a training change nothing in it, and read the steps' own outputs."""

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import Callback, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from torch import Tensor, nn

from stn_lightning.backbones import FCN
from stn_lightning.batch import Batch
from stn_lightning.callbacks import (
    MisclassifiedImages,
    PartScores,
    PRCurves,
    TensorBoardLayout,
    TransformerMonitor,
    WarpImages,
)
from stn_lightning.tasks import ClassificationTask, StepOutput
from stn_lightning.transformers import Affine, ConvolutionalLocalisation, SpatialTransformer
from tests.reliability.training import Data

pytestmark = [
    pytest.mark.filterwarnings(
        "ignore:The '.*_dataloader' does not have many workers"
    ),  # the data are in memory
]


class Counted(FCN):
    """Counts its forward calls."""

    calls = 0

    def forward(self, image: Tensor) -> Tensor:
        self.calls += 1
        return super().forward(image)


def watching() -> list[Callback]:
    return [
        TensorBoardLayout(),
        PRCurves(),
        WarpImages(),
        TransformerMonitor(),
        MisclassifiedImages(),
        PartScores(),
    ]


def train(folder: Path, *callbacks: Callback, precision: Any = "32-true") -> ClassificationTask:
    torch.manual_seed(3)
    transformer = SpatialTransformer(ConvolutionalLocalisation(), Affine(), size=(12, 12))
    task = ClassificationTask(Counted([8]), torch.optim.Adam, transformer)
    trainer = Trainer(
        accelerator="cpu",
        devices=1,
        callbacks=list(callbacks),
        logger=TensorBoardLogger(folder, "", ""),
        default_root_dir=folder,
        max_epochs=1,
        limit_train_batches=4,
        log_every_n_steps=1,
        precision=precision,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(task, datamodule=Data(batch_size=8))
    trainer.test(task, datamodule=Data(batch_size=8), verbose=False)
    return task


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed", "bf16-true"])
def test_a_training_that_is_watched_ends_with_the_same_weights_after_as_many_forward_passes(
    precision: str, tmp_path: Path
) -> None:
    plain = train(tmp_path / "plain", precision=precision)
    watched = train(tmp_path / "watched", *watching(), precision=precision)
    values = watched.state_dict()
    assert all(torch.equal(value, values[name]) for name, value in plain.state_dict().items())
    assert isinstance(plain.backbone, Counted)
    assert isinstance(watched.backbone, Counted)
    assert watched.backbone.calls == plain.backbone.calls
    assert {"panel.png", "misclassified.png"} <= {file.name for file in tmp_path.rglob("*.png")}


def test_an_evaluation_step_gives_logits_and_what_every_transformer_did() -> None:
    transformers = [
        SpatialTransformer(ConvolutionalLocalisation(), Affine(), size) for size in (None, (12, 12))
    ]
    backbone = nn.Sequential(transformers[1], FCN([8]))
    task = ClassificationTask(backbone, torch.optim.SGD, transformers[0])
    task.log_dict = lambda *_, **__: None  # type: ignore[method-assign]
    image, label = torch.rand(5, 1, 28, 28), torch.arange(5)
    batch = Batch(image, label, torch.arange(5), 0, 1.0, "test")
    output = task.test_step(batch, 0)
    assert isinstance(output, StepOutput)
    assert output.logits is not None
    assert torch.equal(output.logits, task(image))
    assert [record.transformer for record in output.records] == transformers
    assert output.records[1].grids.shape == (5, 1, 12, 12, 2)


def test_drawings_that_cannot_be_written_do_not_stop_a_test(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("panel.png", "misclassified.png"):
        (tmp_path / name).mkdir()
    train(tmp_path, WarpImages(), MisclassifiedImages())
    printed = capsys.readouterr().err
    for name in ("panel.png", "misclassified.png"):
        assert printed.count(f"{name}: Is a directory") == 1

"""Precision and recall: values, several processes, and what TensorBoard gets."""

import functools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning import Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.util.tensor_util import make_ndarray
from torch import Tensor
from torch.utils.tensorboard.summary import compute_curve
from torchmetrics.classification import MulticlassPrecisionRecallCurve

from stn_lightning.backbones import FCN
from stn_lightning.callbacks import PRCurves
from stn_lightning.callbacks.pr_curves import THRESHOLDS, count, curves
from stn_lightning.tasks import ClassificationTask
from tests.reliability.processes import log, run
from tests.reliability.training import SIZES, Data, train

pytestmark = [
    pytest.mark.filterwarnings(
        "ignore:The '.*_dataloader' does not have many workers"
    ),  # the data are in memory
]
STILL: dict[str, Any] = {
    "dropout": 0.0,
    "optimizer": functools.partial(torch.optim.SGD, lr=0.0),
    "epochs": 2,
}


def test_curves_are_those_that_tensorboard_computes_from_probabilities() -> None:
    probability, label = torch.randn(500, 4).softmax(1), torch.randint(4, (500,))
    metric = MulticlassPrecisionRecallCurve(4, thresholds=THRESHOLDS)
    metric.update(probability, label)
    counts = sum(
        (count(probability[part], label[part]) for part in torch.arange(500).split(64)),
        torch.zeros(THRESHOLDS, 4, 2, 2, dtype=torch.long),
    )
    assert torch.equal(counts, metric.confmat)
    for own, curve in enumerate(curves(counts)):
        np.testing.assert_allclose(
            curve.numpy(),
            compute_curve((label == own).numpy(), probability[:, own].numpy(), THRESHOLDS),
        )


class Kept(PRCurves):
    """Keeps in a file what it would write."""

    def __init__(self, file: Path) -> None:
        super().__init__()
        self.file = file

    def _write(self, trainer: Trainer, counts: Tensor) -> None:
        torch.save(counts, self.file)


@pytest.mark.slow
def test_two_processes_count_every_image_once_as_one_does(tmp_path: Path) -> None:
    train(tmp_path / "one", Kept(tmp_path / "one.pt"), **STILL)
    assert run(tmp_path / "two", Kept(tmp_path / "two.pt"), ranks=2, **STILL) == [0, 0], log(
        tmp_path / "two"
    )
    one, two = torch.load(tmp_path / "one.pt"), torch.load(tmp_path / "two.pt")
    assert one[0, :, 1].sum() == SIZES["val"]
    assert torch.equal(one, two)


def test_tensorboard_gets_a_curve_of_each_class_once_of_the_last_validation(tmp_path: Path) -> None:
    board = TensorBoardLogger(tmp_path, "", "")
    quiet: dict[str, Any] = {
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "num_sanity_val_steps": 0,
    }
    trainer = Trainer(
        accelerator="cpu",
        devices=1,
        callbacks=[PRCurves()],
        logger=board,
        max_epochs=2,
        log_every_n_steps=1,
        **quiet,
    )
    trainer.fit(ClassificationTask(FCN([8]), torch.optim.Adam), datamodule=Data(batch_size=8))
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    for digit in range(10):
        (event,) = events.Tensors(f"precision_recall/{digit}")
        curve = make_ndarray(event.tensor_proto)
        assert event.step == 22
        assert curve.shape == (6, THRESHOLDS)
        assert curve[0, 0] + curve[1, 0] == SIZES["val"], (
            "at a threshold of 0 every image is predicted as it"
        )

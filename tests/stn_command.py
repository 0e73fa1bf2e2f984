"""The command `stn` as fixtures for tests."""

import contextlib
import dataclasses
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch

from stn_lightning.backbones import MultiCropClassifier, SharedStemClassifier, SmallConvNet
from stn_lightning.cli.training import run
from stn_lightning.runs.loading import TrainedNetwork
from stn_lightning.tasks import ClassificationTask
from stn_lightning.transformers import (
    FullyConnectedLocalisation,
    ParallelTransformer,
    Tiling,
    Translation,
)

CONFIGS = Path(__file__).parents[1] / "configs"
Stn = Callable[..., tuple[int, str, str]]


@pytest.fixture
def stn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Stn:
    """The command, run in an empty folder: exit code, what it printed, and what it complained
    about.
    """
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("STN_DATA", raising=False)
    (tmp_path / "configs").symlink_to(CONFIGS)

    def call(*arguments: str) -> tuple[int, str, str]:
        capsys.readouterr()
        code = run(list(arguments))
        said = capsys.readouterr()
        return code, said.out, said.err

    return call


@pytest.fixture(scope="session")
def small_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a quickstart with few filters, trained for a moment: its transformer no longer
    stands still, its errors are many.
    """
    folder = tmp_path_factory.mktemp("small")
    options = (
        "--trainer.max_epochs=2",
        "--trainer.limit_train_batches=12",
        "--model.init_args.backbone.init_args.num_filters=8",
    )
    with contextlib.chdir(folder):
        assert (
            run(["fit", "--config", str(CONFIGS / "quickstart.yaml"), "--name", "small", *options])
            == 0
        )
    return folder / "runs/small"


def on_maps(run: TrainedNetwork) -> TrainedNetwork:
    """Return the run with a network whose two transformers read feature maps, half as wide."""
    transformer = ParallelTransformer(
        FullyConnectedLocalisation([8]), Translation(0.5), 2, (10, 10), start=Tiling()
    )
    classifier = MultiCropClassifier(SmallConvNet((8,)), 2, shared=True, num_classes=10)
    network = SharedStemClassifier(SmallConvNet((4,)), classifier, transformer)
    task = ClassificationTask(network, partial(torch.optim.SGD, lr=0.1)).eval()
    with torch.no_grad():
        task(torch.zeros(1, *run.image_shape))
    return dataclasses.replace(run, task=task)

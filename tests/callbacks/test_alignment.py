import json
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import Trainer
from torch import nn

from stn_lightning.backbones import MultiCropClassifier, SmallConvNet
from stn_lightning.callbacks import AlignmentLogger
from stn_lightning.callbacks.alignment import PoseAlignment
from stn_lightning.datamodules import MNISTDataModule
from stn_lightning.distortions import Distortion, Elastic, Rotated, RotatedScaledTranslated
from stn_lightning.geometry import affine, alignment
from stn_lightning.tasks import ClassificationTask
from stn_lightning.transformers import (
    Affine,
    InitialTheta,
    MomentCrop,
    MomentLocalisation,
    ParallelTransformer,
    SpatialTransformer,
    Transformer,
)
from tests.reliability.processes import log, run
from tests.reliability.training import FewDigits, evaluate

OPTIONS: dict[str, Any] = {
    "logger": False,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
}


def localisation() -> MomentLocalisation:
    return MomentLocalisation(nn.Flatten(), hidden_size=4)


def crop(**options: Any) -> SpatialTransformer:
    return SpatialTransformer(localisation(), Affine(), (28, 28), **options)


def metrics(
    transformer: Transformer | None,
    distortion: Distortion | None,
    folder: Path,
    split: str = "test",
    batch_size: int = 200,
) -> dict[str, float]:
    """Everything that is logged of the alignment, of an untrained network."""
    crops = 2 if isinstance(transformer, ParallelTransformer) else 1
    backbone = MultiCropClassifier(SmallConvNet((4, 4)), crops, num_classes=10)
    task = ClassificationTask(backbone, lambda p: torch.optim.SGD(p, 0.0), transformer)
    trainer = Trainer(
        accelerator="cpu",
        devices=1,
        callbacks=[AlignmentLogger()],
        default_root_dir=folder,
        **OPTIONS,
    )
    data = MNISTDataModule(FewDigits(), distortion, batch_size=batch_size)
    step = trainer.test if split == "test" else trainer.validate
    step(task, data, verbose=False)
    return {
        name.removeprefix(f"{split}/alignment_"): float(value)
        for name, value in trainer.callback_metrics.items()
        if "alignment" in name
    }


# The metric


def test_batches_of_any_size_add_up_to_the_whole_and_an_empty_one_adds_nothing() -> None:
    torch.manual_seed(0)
    applied, crops = torch.randn(2, 50, 6, dtype=torch.float64)
    grid = affine.grid(crops, (5, 7))
    metric = PoseAlignment()
    for part in torch.arange(50).split([20, 0, 30]):
        metric.update(applied[part], grid[part], (42, 42))
    size = (42, 42)
    expected = alignment.compare(alignment.applied_pose(applied, size), alignment.pose(crops, size))
    for name, measured in metric.compute().items():
        assert tuple(measured) == pytest.approx(tuple(expected[name]), rel=1e-9)


# The callback


@pytest.mark.parametrize("split", ["val", "test"])
def test_a_crop_that_follows_the_ink_follows_scale_and_place_but_not_the_angle(
    split: str, tmp_path: Path
) -> None:
    measured = metrics(crop(start=MomentCrop()), RotatedScaledTranslated(), tmp_path, split)
    assert set(measured) == {
        "angle",
        "angle_degrees",
        "scale",
        "scale_factor",
        "place",
        "place_pixels",
    }
    assert measured["place"] > 0.9
    assert measured["scale"] > 0.6
    assert measured["angle"] == 0
    assert measured["place_pixels"] < 2
    assert 1 < measured["scale_factor"] < 1.3
    assert measured["angle_degrees"] > 15


def test_the_batch_size_does_not_matter(tmp_path: Path) -> None:
    whole, parts = (
        metrics(crop(start=MomentCrop()), RotatedScaledTranslated(), tmp_path, batch_size=n)
        for n in (200, 7)
    )
    assert parts == pytest.approx(whole, rel=1e-4)


def test_what_the_distortion_leaves_alone_is_not_logged(tmp_path: Path) -> None:
    measured = metrics(
        crop(start=InitialTheta([0.5, 0.0, 0.0, 0.0, 0.5, 0.0])), Rotated(), tmp_path
    )
    assert set(measured) == {"angle", "angle_degrees"}
    assert measured["angle"] == 0
    assert measured["angle_degrees"] == pytest.approx(45, abs=10)


@pytest.mark.parametrize(
    ("transformer", "distortion"),
    [
        (None, Rotated()),
        (crop(), None),
        (crop(), Elastic()),
        (ParallelTransformer(localisation(), Affine(), 2, (28, 28)), Rotated()),
    ],
    ids=["no transformer", "no distortion", "not affine", "two crops"],
)
def test_nothing_is_logged_where_there_is_nothing_to_compare(
    transformer: Transformer | None, distortion: Distortion | None, tmp_path: Path
) -> None:
    assert metrics(transformer, distortion, tmp_path) == {}


@pytest.mark.slow
@pytest.mark.parametrize("batch_size", [8, 2])  # 2: one process has nothing of any batch
def test_three_processes_measure_what_one_does(batch_size: int, tmp_path: Path) -> None:
    options: dict[str, Any] = {
        "distortion": RotatedScaledTranslated(size=28, scale=(0.5, 0.9)),
        "transformer": SpatialTransformer(localisation(), Affine(), start=MomentCrop()),
        "batch_size": batch_size,
    }
    (tmp_path / "one").mkdir()
    evaluate(tmp_path / "one", AlignmentLogger(), **options)
    codes = run(tmp_path, AlignmentLogger(), function="evaluate", ranks=3, **options)
    assert codes == [0, 0, 0], log(tmp_path)
    one = json.loads((tmp_path / "one/results.0").read_text())
    assert one["test/alignment_place"] > 0.9
    for rank in range(3):
        results = json.loads((tmp_path / f"results.{rank}").read_text())
        assert results == pytest.approx(one, rel=1e-5)

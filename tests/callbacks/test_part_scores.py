import json
from pathlib import Path
from types import MappingProxyType

import pytest
import torch
from lightning import Trainer
from PIL import Image

from stn_lightning.backbones import MultiCropClassifier, SmallConvNet
from stn_lightning.callbacks.part_scores import PartScore, PartScores
from stn_lightning.callbacks.part_tables import PartTables
from stn_lightning.datamodules import MNISTDataModule
from stn_lightning.datasets import EmbeddedDigits
from stn_lightning.datasets.sources import ImageTensorSource
from stn_lightning.geometry import affine
from stn_lightning.synthetic import DigitPairs
from stn_lightning.tasks import ClassificationTask
from stn_lightning.transformers import (
    FullyConnectedLocalisation,
    ParallelTransformer,
    Tiling,
    Translation,
)


def test_a_part_counts_where_it_is_to_be_seen_and_the_crop_contains_it() -> None:
    left, right = torch.tensor([[0.5, -0.5, 0.0]]), torch.tensor([[0.5, 0.5, 0.0]])
    grids = affine.grid(affine.from_attention(torch.cat([left, right])), (32, 32))[None].expand(
        3, -1, -1, -1, -1
    )
    parts = torch.tensor(
        [
            [[-0.5, 0.0, 1], [0.5, 0.0, 1]],
            [[-0.5, 0.0, 1], [0.5, 0.0, 0]],
            [[0.5, 0.0, 1], [0.0, 0.9, 1]],
        ]
    )
    score = PartScore(2, 2)
    score.update(grids[:2], parts[:2])
    score.update(grids[2:], parts[2:])
    contained, overlap, *_ = score.compute()
    torch.testing.assert_close(
        contained, torch.tensor([[2 / 3, 0], [1 / 3, 1 / 2]], dtype=torch.float64)
    )
    assert overlap.tolist() == [[1, 0], [0, 1]]


def test_a_crop_holds_a_group_where_it_contains_half_of_the_visible_parts() -> None:
    left = affine.grid(affine.from_attention(torch.tensor([[0.5, -0.5, 0.0]])), (32, 32))
    inside, outside, hidden = [-0.5, 0.0, 1.0], [0.5, 0.0, 1.0], [-0.5, 0.0, 0.0]
    parts = torch.tensor(
        [
            [inside, inside, outside, outside],  # both of the first group, none of the second
            [inside, outside, outside, outside],  # half of the first group is enough
            [hidden, outside, inside, hidden],  # hidden parts do not count
            [hidden, hidden, inside, outside],  # no part of the first group: does not count
        ]
    )
    score = PartScore(1, 4, [[0, 1], [2, 3]])
    grids = left[None].expand(4, -1, -1, -1, -1)
    score.update(grids, parts)
    shares = score.compute()
    torch.testing.assert_close(shares.held, torch.tensor([[2 / 3, 2 / 4]], dtype=torch.float64))
    torch.testing.assert_close(
        shares.mean_share, torch.tensor([[1.5 / 3, 1.5 / 4]], dtype=torch.float64)
    )
    torch.testing.assert_close(shares.any_part, shares.held)  # here half is one part
    by_kind = PartScore(1, 4, [[0, 1], [2, 3]], num_kinds=2)
    by_kind.update(grids[:3], parts[:3], torch.tensor([0, 1, 0]))
    by_kind.update(grids[3:], parts[3:], torch.tensor([1]))
    apart = by_kind.compute()
    torch.testing.assert_close(apart.held, shares.held)
    assert apart.held_of.tolist() == [[[1 / 2, 1 / 2]], [[1, 1 / 2]]]
    assert apart.images_of.tolist() == [2, 2]


def test_one_part_of_many_is_some_but_does_not_hold_the_group() -> None:
    left = affine.grid(affine.from_attention(torch.tensor([[0.5, -0.5, 0.0]])), (32, 32))
    parts = torch.tensor([[[-0.5, 0.0, 1], [0.5, 0.0, 1], [0.5, 0.1, 1]]])
    score = PartScore(1, 3, [[0, 1, 2]])
    score.update(left[None], parts)
    shares = score.compute()
    assert (shares.held.item(), shares.any_part.item()) == (0, 1)


def test_a_test_writes_scores_a_table_and_an_image(tmp_path: Path) -> None:
    transformer = ParallelTransformer(
        FullyConnectedLocalisation([4]), Translation(0.5), 2, (24, 24), start=Tiling()
    )
    task = ClassificationTask(
        MultiCropClassifier(SmallConvNet((4, 4)), 2, num_classes=9),
        lambda p: torch.optim.SGD(p, 0.1),
        transformer,
    )
    options = {
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    trainer = Trainer(
        accelerator="cpu",
        devices=1,
        callbacks=[PartScores()],
        default_root_dir=tmp_path,
        **options,  # type: ignore[arg-type]
    )

    class Grouped(DigitPairs):
        part_groups = MappingProxyType({"warm": ("red",), "cold": ("green",)})
        class_groups = ("low",) * 6 + ("high",) * 2 + ("single",)

    (logged,) = trainer.test(task, MNISTDataModule(Grouped(160), batch_size=16), verbose=False)
    scores = json.loads((tmp_path / "parts.json").read_text())
    parts = DigitPairs(160).annotations("test").parts
    within = (parts[:, :, 1].abs() < 0.5).double()
    for crop, side in enumerate((-1, 1)):
        expected = (within * (side * parts[:, :, 0] > 0)).mean(0)
        torch.testing.assert_close(
            torch.tensor(scores["contained"][crop], dtype=torch.float64),
            expected,
            rtol=0,
            atol=0.06,
        )
    assert scores["overlap"][0][1] == 0
    assert scores["images"] == 80
    warm = logged["test/warm_crop_1"]
    assert warm == logged["test/warm_any_crop_1"] == pytest.approx(100 * scores["held"][0][0])
    assert warm == pytest.approx(100 * scores["contained"][0][0])
    assert logged["test/crop_overlap"] == 0
    assert scores["kinds"] == ["low", "others"]
    assert sum(scores["images_of"]) == 80
    text = (tmp_path / "parts.md").read_text()
    assert "| part | crop 1 | crop 2 |\n|---|---|---|\n| red | " in text
    assert "| at least half of the visible parts | images | warm, crop 1 | warm, crop 2 |" in text
    assert f"| warm: at least half of its visible parts | {warm:.1f} |" in text
    assert "Intersection over union: crops 1 and 2: 0.00." in text
    with Image.open(tmp_path / "parts.png") as image:
        assert image.size == (90 + 2 * 48 + 4, 20 + 2 * 48 + 4)


def test_data_without_parts_writes_nothing(tmp_path: Path) -> None:
    class Few(ImageTensorSource):
        class_names = EmbeddedDigits.class_names
        load = EmbeddedDigits().load

    task = ClassificationTask(
        MultiCropClassifier(SmallConvNet((4, 4)), num_classes=10), lambda p: torch.optim.SGD(p, 0.1)
    )
    options = {
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    trainer = Trainer(
        accelerator="cpu",
        devices=1,
        callbacks=[PartScores()],
        default_root_dir=tmp_path,
        **options,  # type: ignore[arg-type]
    )
    trainer.test(task, MNISTDataModule(Few(), batch_size=500), verbose=False)
    assert not list(tmp_path.iterdir())


def test_pairs_are_a_red_digit_and_a_green_one_far_apart_whose_class_is_the_pair() -> None:
    source = DigitPairs(400)
    images, parts = source.load("train"), source.annotations("train").parts
    assert images.image.shape == (400, 3, 40, 40)
    assert images.label.bincount(minlength=9).min() > 20
    gap = ((parts[:, 0, :2] - parts[:, 1, :2]) * 20).abs().amax(1)
    assert gap.min() > 15.99
    for image, marks in zip(images.image[:50].float(), parts[:50], strict=True):
        rest = image.clone()
        for colour, (x, y, _) in enumerate(marks):
            column, row = (round(float((at + 1) * 20)) for at in (x, y))
            assert image[colour, row - 6 : row + 6, column - 6 : column + 6].sum() > 2000
            rest[colour, row - 6 : row + 6, column - 6 : column + 6] = 0
        assert not rest.any()
    assert torch.equal(source.load("train").image, images.image)
    assert not torch.equal(source.load("val").image[:50], images.image[:50])


def test_a_single_crop_group_and_kind_keep_their_shapes() -> None:
    everything = affine.grid(affine.from_attention(torch.tensor([[1.0, 0.0, 0.0]])), (8, 8))
    score = PartScore(1, 1, [[0]])
    score.update(everything[None], torch.zeros(1, 1, 3) + torch.tensor([0.0, 0.0, 1.0]))
    tables = PartTables(["beak"], ["head"], ["Others"], score.in_shape(score.compute()))
    assert "| Others | 1 | 100.0 |" in tables.markdown()
    assert tables.metrics() == {"head_crop_1": 100.0, "head_any_crop_1": 100.0}

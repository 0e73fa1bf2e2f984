from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
import torch
from lightning import Trainer
from torch import Tensor

from stn_lightning.batch import Split
from stn_lightning.datasets import EmbeddedDigits
from stn_lightning.distortions import CounterRandom
from stn_lightning.synthetic import (
    DigitPool,
    SyntheticNumber,
    SyntheticNumbersDataModule,
    numbers_datamodule,
)


@pytest.fixture(autouse=True)
def _few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        numbers_datamodule, "DRAWN", {"train": (20, 0), "val": (20, 1), "test": (20, 2)}
    )


def module_of(
    tmp_path: Path, batch_size: int = 8, seed: int = 0, ranks: int = 1, rank: int = 0
) -> SyntheticNumbersDataModule:
    module = SyntheticNumbersDataModule(
        EmbeddedDigits(), SyntheticNumber(64), None, batch_size, seed, str(tmp_path)
    )
    module.trainer = cast(
        Trainer, SimpleNamespace(global_rank=rank, world_size=ranks, overfit_batches=0.0)
    )
    module.setup("fit")
    module.setup("test")
    return module


def images(module: SyntheticNumbersDataModule, split: Split, epoch: int = 0) -> Tensor:
    loader = {
        "train": module.train_dataloader,
        "val": module.val_dataloader,
        "test": module.test_dataloader,
    }[split]()
    loader.sampler.set_epoch(epoch)
    batches = [module.on_after_batch_transfer(batch, 0) for batch in loader]
    indices = torch.cat([batch.indices for batch in batches])
    return torch.cat([batch.image for batch in batches])[indices.argsort()]


def test_an_image_depends_on_seed_epoch_and_index_alone(tmp_path: Path) -> None:
    expected = images(module_of(tmp_path), "train", 2)
    assert expected.shape == (20, 3, 64, 64)
    torch.testing.assert_close(
        images(module_of(tmp_path, batch_size=5), "train", 2), expected, rtol=0, atol=1e-6
    )
    assert not torch.equal(images(module_of(tmp_path), "train", 3), expected)
    assert not torch.equal(images(module_of(tmp_path, seed=1), "train", 2), expected)


@pytest.mark.parametrize("split", ["val", "test"])
def test_validation_and_test_are_frozen(tmp_path: Path, split: Split) -> None:
    torch.testing.assert_close(
        images(module_of(tmp_path, seed=5, batch_size=7), split, 4),
        images(module_of(tmp_path), split),
        rtol=0,
        atol=1e-6,
    )


def test_an_image_has_no_mean_and_its_number_in_the_middle(tmp_path: Path) -> None:
    found = images(module_of(tmp_path), "test")
    torch.testing.assert_close(found.mean((1, 2, 3)), torch.zeros(20), rtol=0, atol=1e-5)
    assert found.flatten(1).std(1).min() > 0.01


def test_a_digit_fills_its_box_and_nothing_else() -> None:
    image = torch.zeros(10, 1, 28, 28, dtype=torch.uint8)
    image[:, :, 5:23, 9:19] = 255
    pool = DigitPool(image, torch.arange(10))
    box = torch.full((1, 5, 4), torch.nan)
    box[0, 0] = torch.tensor([-0.5, -0.75, 0.25, 0.5])
    identity = torch.tensor([[1.0, 0, 0, 0, 1, 0]])
    ink = SyntheticNumber(64)._pasted(box, torch.arange(5)[None], identity, pool)
    rows, columns = (ink[0, 0] > 0.5).nonzero().T
    assert (rows.min(), rows.max() + 1) == (8, 48)
    assert (columns.min(), columns.max() + 1) == (16, 40)
    assert not ink[0, 1:].any()


def test_a_digit_is_of_the_class_that_is_asked_for() -> None:
    label = torch.tensor([3, 1, 0, 2, 4, 5, 6, 7, 8, 9, 3, 1])
    pool = DigitPool(torch.full((12, 1, 28, 28), 255, dtype=torch.uint8), label)
    asked = torch.randint(0, 10, (50, 5))
    picked = pool.pick(asked, CounterRandom(0, 0, 0, torch.arange(50)))
    assert torch.equal(label.sort(stable=True).values[picked], asked)
    assert len({int(i) for i in picked[asked == 3]}) == 2


def test_digits_of_a_class_missing_are_refused() -> None:
    with pytest.raises(ValueError, match="give at least one of each"):
        DigitPool(torch.zeros(9, 1, 28, 28, dtype=torch.uint8), torch.arange(9))


def test_only_the_training_images_are_cut_down(tmp_path: Path) -> None:
    module = SyntheticNumbersDataModule(
        EmbeddedDigits(), SyntheticNumber(64), 6, annotations=str(tmp_path)
    )
    module.setup("fit")
    assert [len(module.splits[split].label) for split in ("train", "val")] == [6, 20]

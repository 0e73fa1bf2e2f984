import math

import pytest
import torch

from stn_lightning.batch import Split
from stn_lightning.datamodules import AdditionDataModule, MNISTDataModule
from stn_lightning.distortions import CounterRandom, RotatedScaledTranslated
from tests.datamodules.test_mnist import SIZES, Few, all_digits


def module_of(batch_size: int = 10, plain: bool = False) -> AdditionDataModule:
    module = AdditionDataModule(
        Few(), None if plain else RotatedScaledTranslated(), batch_size, seed=5
    )
    module.setup("fit")
    module.setup("test")
    return module


def pairs(
    module: MNISTDataModule, split: Split, epoch: int = 0
) -> tuple[torch.Tensor, torch.Tensor]:
    """Images and labels of a split, at their index."""
    loader = {
        "train": module.train_dataloader,
        "val": module.val_dataloader,
        "test": module.test_dataloader,
    }[split]()
    loader.sampler.set_epoch(epoch)
    batches = [module.on_after_batch_transfer(batch, 0) for batch in loader]
    order = torch.cat([batch.indices for batch in batches]).argsort()
    return torch.cat([batch.image for batch in batches])[order], torch.cat(
        [batch.label for batch in batches]
    )[order]


def test_the_label_is_the_sum_of_the_two_digits_that_the_channels_show() -> None:
    image, label = pairs(module_of(plain=True), "test")
    digits = all_digits("test")
    shown, worth = digits.image[: SIZES["test"]].float() / 255, digits.label[: SIZES["test"]]
    assert image.shape == (SIZES["test"], 2, 28, 28)
    torch.testing.assert_close(image[:, :1], shown)
    partner = (image[:, 1].flatten(1)[:, None] - shown.flatten(1)[None]).abs().sum(2).argmin(1)
    torch.testing.assert_close(image[:, 1:], shown[partner])
    assert torch.equal(label, worth + worth[partner])
    assert len(partner.unique()) > 10


def test_each_channel_is_distorted_on_its_own() -> None:
    module = module_of()
    image, _ = pairs(module, "test")
    alone = MNISTDataModule(Few(), RotatedScaledTranslated(), 10, seed=5)
    alone.setup("test")
    expected, _ = pairs(alone, "test")
    assert image.shape == (SIZES["test"], 2, 42, 42)
    assert module.image_shape == (2, 42, 42)
    torch.testing.assert_close(image[:, :1], expected)
    assert (image[:, 1:] - expected).abs().amax((1, 2, 3)).min() > 0.1


def test_the_second_digit_is_distorted_by_other_random_numbers_than_the_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    module, drawn = module_of(), []

    def distort(image: torch.Tensor, split: Split, randomness: CounterRandom) -> torch.Tensor:
        numbers = CounterRandom(*randomness.key, randomness.epoch, randomness.index)
        drawn.append(numbers.uniform(40, 0.0, 1.0))  # from the first number on
        return torch.zeros(len(image), 1, 42, 42)

    monkeypatch.setattr(module, "distort", distort)
    pairs(module, "test")
    assert len(drawn) == 2 * math.ceil(SIZES["test"] / 10)
    for second, first in zip(drawn[1::2], drawn[::2], strict=True):
        assert not torch.isin(first, second).any()


def test_pairs_are_the_same_at_any_batch_size_and_new_in_each_epoch_of_training_alone() -> None:
    for split in ("train", "val", "test"):
        first, again, later = (
            pairs(module_of(10), split),
            pairs(module_of(3), split),
            pairs(module_of(10), split, epoch=1),
        )
        assert torch.equal(first[0], again[0])
        assert torch.equal(first[1], again[1])
        assert torch.equal(first[0], later[0]) is (split != "train")


def test_there_are_nineteen_sums() -> None:
    module = module_of()
    assert module.class_names == tuple(str(n) for n in range(19))

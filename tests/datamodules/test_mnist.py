import functools
import itertools
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from lightning import Callback, LightningModule, Trainer
from torch import Tensor, nn

from stn_lightning.batch import Batch, Split
from stn_lightning.datamodules import AdditionDataModule, BaseDataModule, MNISTDataModule
from stn_lightning.datasets import EmbeddedDigits, ImageTensorDataset, ImageTensorSource
from stn_lightning.distortions import (
    Cluttered,
    Distortion,
    Elastic,
    Perspective,
    Rotated,
    RotatedScaledTranslated,
)
from stn_lightning.geometry import affine, sampling

SIZES: dict[Split, int] = {"train": 37, "val": 21, "test": 23}


@functools.cache
def all_digits(split: Split) -> ImageTensorDataset:
    return EmbeddedDigits().load(split)


class Few(ImageTensorSource):
    """The first few embedded digits of each split, and a list of what was asked of it."""

    class_names = tuple("0123456789")

    def __init__(self) -> None:
        self.asked: list[str] = []

    def prepare(self) -> None:
        self.asked.append("prepare")

    def load(self, split: Split) -> ImageTensorDataset:
        self.asked.append(split)
        return ImageTensorDataset(*(values[: SIZES[split]] for values in all_digits(split)))


def module_of(
    distortion: Distortion | None = None,
    batch_size: int = 10,
    seed: int = 0,
    rank: int = 0,
    ranks: int = 1,
) -> MNISTDataModule:
    module = MNISTDataModule(Few(), distortion, batch_size, seed)
    module.trainer = cast(
        Trainer, SimpleNamespace(global_rank=rank, world_size=ranks, overfit_batches=0.0)
    )
    module.setup("fit")
    module.setup("test")
    return module


def by_index(module: MNISTDataModule, split: Split, epoch: int = 0) -> Tensor:
    """All images of a split as a task gets them in this epoch, at their index."""
    loader = {
        "train": module.train_dataloader,
        "val": module.val_dataloader,
        "test": module.test_dataloader,
    }[split]()
    loader.sampler.set_epoch(epoch)
    batches: list[Batch] = [module.on_after_batch_transfer(batch, 0) for batch in loader]
    indices = torch.cat([batch.indices for batch in batches])
    assert indices.sort().values.tolist() == list(range(SIZES[split]))
    return torch.cat([batch.image for batch in batches])[indices.argsort()]


@pytest.mark.parametrize("split", SIZES)
def test_a_batch_holds_the_images_and_labels_at_its_indices(split: Split) -> None:
    module = module_of()
    images = Few().load(split)
    loader = {
        "train": module.train_dataloader,
        "val": module.val_dataloader,
        "test": module.test_dataloader,
    }[split]()
    loader.sampler.set_epoch(3)
    for batch in loader:
        assert torch.equal(batch.image, images.image[batch.indices])
        assert torch.equal(batch.label, images.label[batch.indices])
        assert (batch.split, batch.epoch, batch.share) == (split, 3, 1.0)


def test_prediction_goes_through_the_test_images() -> None:
    batches = list(module_of().predict_dataloader())
    assert {batch.split for batch in batches} == {"test"}
    assert torch.cat([batch.indices for batch in batches]).tolist() == list(range(SIZES["test"]))


@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_every_image_comes_once_an_epoch_on_any_number_of_processes(ranks: int) -> None:
    for epoch in range(2):
        seen = []
        for rank in range(ranks):
            loader = module_of(rank=rank, ranks=ranks).train_dataloader()
            loader.sampler.set_epoch(epoch)
            seen += [int(i) for batch in loader for i in batch.indices]
        assert sorted(seen) == list(range(SIZES["train"]))


def test_training_has_an_order_of_its_own_for_each_seed_and_epoch() -> None:
    orders = {tuple(range(SIZES["train"]))}
    for seed in (0, 1):
        loader = module_of(seed=seed).train_dataloader()
        for epoch in (0, 1, 2):
            loader.sampler.set_epoch(epoch)
            orders.add(tuple(int(i) for batch in loader for i in batch.indices))
    assert len(orders) == 1 + 2 * 3


def test_the_global_batch_is_distorted_alike_on_any_number_of_processes() -> None:
    alone = by_index(module_of(RotatedScaledTranslated(), seed=4), "train", epoch=2)
    found = torch.zeros_like(alone)
    for rank in range(3):
        module = module_of(RotatedScaledTranslated(), seed=4, rank=rank, ranks=3, batch_size=17)
        loader = module.train_dataloader()
        loader.sampler.set_epoch(2)
        for batch in loader:
            found[batch.indices] = module.transform_batch(batch).image
    assert torch.equal(found, alone)


@pytest.mark.parametrize("split", ["val", "test"])
@pytest.mark.parametrize("distortion", [RotatedScaledTranslated(), Cluttered()], ids=["RTS", "TC"])
def test_validation_and_test_images_are_frozen(split: Split, distortion: Distortion) -> None:
    expected = by_index(module_of(distortion), split)
    for seed, epoch, batch_size in ((1, 0, 10), (0, 5, 10), (123, 9, 7)):
        assert torch.equal(
            by_index(module_of(distortion, batch_size, seed), split, epoch), expected
        )


def test_training_images_are_distorted_anew_in_each_epoch_and_alike_for_one_seed() -> None:
    first = by_index(module_of(Rotated(), seed=1), "train", 0)
    assert torch.equal(by_index(module_of(Rotated(), seed=1, batch_size=7), "train", 0), first)
    for seed, epoch in ((1, 1), (1, 2), (2, 0)):
        other = by_index(module_of(Rotated(), seed=seed), "train", epoch)
        assert (
            (other - first).abs().amax((1, 2, 3)) > 0.01
        ).float().mean() > 0.9  # two angles may be alike by chance


def test_the_splits_are_not_distorted_by_the_same_numbers() -> None:
    """At seed 0 and epoch 0, where training would otherwise see the test's angles."""
    module = module_of(Rotated())
    same = torch.zeros(20, 1, 28, 28, dtype=torch.uint8)
    same[:, :, 8:20, 13:15] = 255
    splits: tuple[Split, ...] = ("train", "val", "test")
    images = [
        module.transform_batch(
            Batch(same, torch.zeros(20).long(), torch.arange(20), 0, 1.0, split)
        ).image
        for split in splits
    ]
    for first, second in itertools.combinations(images, 2):
        assert ((first - second).abs().amax((1, 2, 3)) > 0.1).float().mean() > 0.9


def test_scraps_are_borrowed_from_the_images_own_split() -> None:
    module = module_of(Cluttered())
    module.splits["test"] = ImageTensorDataset(
        torch.zeros_like(module.splits["test"].image), module.splits["test"].label
    )
    blank = by_index(module, "test")
    assert not blank.any()
    assert by_index(module, "val").any()


def test_without_a_distortion_images_are_floats_from_0_to_1() -> None:
    module = module_of()
    image = by_index(module, "val")
    assert torch.equal(image, Few().load("val").image.float() / 255)
    assert (image.min().item(), image.max().item()) == (0, 1)


def test_distortion_leaves_the_rest_of_the_batch_alone() -> None:
    module = module_of(Rotated())
    batch = next(iter(module.train_dataloader()))
    after = module.transform_batch(batch)
    assert after[1:] == batch[1:]
    assert after.image.shape == (len(batch.label), 1, 28, 28)
    assert after.image.dtype == torch.float32


@pytest.mark.parametrize(
    ("distortion", "shape"),
    [(None, (1, 28, 28)), (RotatedScaledTranslated(), (1, 42, 42)), (Cluttered(50), (1, 50, 50))],
)
def test_the_image_shape_is_that_of_what_a_task_gets(
    distortion: Distortion | None, shape: tuple[int, ...]
) -> None:
    module = module_of(distortion)
    assert module.image_shape == shape == tuple(by_index(module, "val").shape[1:])


def test_each_stage_loads_what_it_needs_and_loads_it_once() -> None:
    for stage, wanted in (
        ("fit", ["train", "val"]),
        ("validate", ["val"]),
        ("test", ["test"]),
        ("predict", ["test"]),
    ):
        source = Few()
        module = MNISTDataModule(source)
        module.setup(stage)
        module.setup(stage)
        assert source.asked == wanted
        assert list(module.splits) == wanted


def test_training_can_be_kept_to_the_first_images_and_nothing_else_is() -> None:
    module = MNISTDataModule(Few(), Cluttered(), 10, train_size=12)
    module.setup("fit")
    module.setup("test")
    assert {split: len(images.label) for split, images in module.splits.items()} == {
        **SIZES,
        "train": 12,
    }
    assert torch.equal(module.splits["train"].image, all_digits("train").image[:12])


@pytest.mark.parametrize("train_images", [0, -3])
def test_training_on_no_images_is_refused(train_images: int) -> None:
    with pytest.raises(ValueError, match="leave it out to train on all"):
        MNISTDataModule(Few(), train_size=train_images)


def test_files_are_brought_by_the_source() -> None:
    source = Few()
    MNISTDataModule(source).prepare_data()
    assert source.asked == ["prepare"]


def test_the_classes_are_the_sources() -> None:
    assert MNISTDataModule(Few()).class_names == tuple("0123456789")


@pytest.mark.parametrize("batch_size", [0, -5])
def test_a_batch_size_below_1_is_refused(batch_size: int) -> None:
    with pytest.raises(ValueError, match=f"batch_size {batch_size}; give 1 or more"):
        MNISTDataModule(Few(), batch_size=batch_size)


class Witness(LightningModule):
    """Learns nothing and writes down what it sees."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))
        self.seen: list[tuple[int, list[int], float]] = []
        self.validation_metrics: list[list[int]] = []

    def on_validation_epoch_start(self) -> None:
        self.validation_metrics.append([])

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        self.seen.append((batch.epoch, batch.indices.tolist(), batch.image.sum().item()))
        return self.weight.sum()

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self.validation_metrics[-1] += batch.indices.tolist()

    test_step = validation_step

    def on_test_epoch_start(self) -> None:
        self.validation_metrics.append([])

    def predict_step(self, batch: Batch, batch_idx: int) -> Tensor:
        return batch.indices

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD([self.weight], lr=0.1)


def trainer_of(*callbacks: Callback, **options: Any) -> Trainer:
    quiet = {
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    return Trainer(
        accelerator="cpu",
        devices=1,
        callbacks=list(callbacks),
        **(quiet | {"max_epochs": 3} | options),
    )


class SavedAfter(Callback):
    """A checkpoint after this many batches, or with this epoch."""

    def __init__(self, path: Path, batches: int | None = None, epoch: int | None = None) -> None:
        self.path, self.batches, self.epoch = path, batches, epoch

    def on_train_batch_end(self, trainer: Trainer, *_: object) -> None:
        if trainer.global_step == self.batches:
            trainer.save_checkpoint(self.path)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.current_epoch == self.epoch:
            trainer.save_checkpoint(self.path)


@pytest.fixture(scope="module")
def uninterrupted() -> list[tuple[int, list[int], float]]:
    witness = Witness()
    trainer_of(limit_val_batches=0).fit(witness, MNISTDataModule(Few(), Rotated(), 10, seed=3))
    assert len(witness.seen) == 3 * 4
    return witness.seen


@pytest.mark.parametrize("batches", range(1, 12))
def test_a_resumed_training_sees_exactly_what_the_uninterrupted_one_would_have_seen(
    uninterrupted: list[tuple[int, list[int], float]], tmp_path: Path, batches: int
) -> None:
    saved = tmp_path / "saved.ckpt"
    trainer_of(SavedAfter(saved, batches), max_steps=batches, limit_val_batches=0).fit(
        Witness(), MNISTDataModule(Few(), Rotated(), 10, seed=3)
    )
    witness = Witness()
    trainer_of(limit_val_batches=0).fit(
        witness, MNISTDataModule(Few(), Rotated(), 10, seed=3), ckpt_path=saved, weights_only=True
    )
    assert witness.seen == uninterrupted[batches:]


@pytest.mark.parametrize("epoch", [0, 1])
def test_a_training_resumed_at_an_epochs_end_goes_on_with_the_next_epochs_order(
    uninterrupted: list[tuple[int, list[int], float]], tmp_path: Path, epoch: int
) -> None:
    saved = tmp_path / "saved.ckpt"
    trainer_of(SavedAfter(saved, epoch=epoch), max_epochs=epoch + 1).fit(
        Witness(), MNISTDataModule(Few(), Rotated(), 10, seed=3)
    )
    witness = Witness()
    trainer_of().fit(
        witness, MNISTDataModule(Few(), Rotated(), 10, seed=3), ckpt_path=saved, weights_only=True
    )
    assert witness.seen == uninterrupted[4 * (epoch + 1) :]
    assert witness.validation_metrics[1:] == [list(range(SIZES["val"]))] * (
        2 - epoch
    )  # after the sanity check


@pytest.mark.parametrize(
    "options",
    [{}, {"val_check_interval": 0.5}, {"num_sanity_val_steps": 1}, {"num_sanity_val_steps": 0}],
)
def test_every_validation_sees_every_image_once(options: dict[str, Any]) -> None:
    witness = Witness()
    trainer_of(max_epochs=2, **options).fit(witness, MNISTDataModule(Few(), batch_size=10))
    if options.get("num_sanity_val_steps") != 0:
        assert len(witness.validation_metrics.pop(0)) < SIZES["val"]  # the sanity check
    assert witness.validation_metrics == [list(range(SIZES["val"]))] * (
        4 if "val_check_interval" in options else 2
    )


def test_tests_and_predictions_see_every_image_once_in_order_however_often() -> None:
    witness, module, trainer = Witness(), MNISTDataModule(Few(), batch_size=10), trainer_of()
    trainer.test(witness, module)
    trainer.test(witness, module)
    assert witness.validation_metrics == [list(range(SIZES["test"]))] * 2
    predicted = cast(list[Tensor], trainer.predict(witness, module))
    assert torch.cat(predicted).tolist() == list(range(SIZES["test"]))


def with_curriculum(curriculum: float, max_epochs: int = 8) -> MNISTDataModule:
    module = MNISTDataModule(Few(), RotatedScaledTranslated(), 10, 3, curriculum=curriculum)
    module.trainer = cast(
        Trainer,
        SimpleNamespace(global_rank=0, world_size=1, overfit_batches=0.0, max_epochs=max_epochs),
    )
    module.setup("fit")
    module.setup("test")
    return module


def turns(module: MNISTDataModule, split: Split, epoch: int) -> Tensor:
    """Of each image, in degrees."""
    batch = Batch(torch.empty(0), torch.empty(0), torch.arange(SIZES[split]), epoch, 1.0, split)
    distortion = cast(RotatedScaledTranslated, module.distortion)
    theta = distortion.theta(module.randomness(batch))
    return torch.atan2(theta[:, 1], theta[:, 0]).rad2deg()


def augmented(distortion: Distortion | None) -> MNISTDataModule:
    module = MNISTDataModule(Few(), distortion, 10, augmentation=Elastic(scale=(1.0, 1.0)))
    module.trainer = module_of().trainer
    module.setup("fit")
    module.setup("test")
    return module


@pytest.mark.parametrize("split", SIZES)
def test_training_images_alone_are_augmented(split: Split) -> None:
    bent, plain = augmented(Rotated()), module_of(Rotated())
    assert torch.equal(by_index(bent, split), by_index(plain, split)) == (split != "train")
    assert torch.equal(turns(bent, split, 0), turns(plain, split, 0))


@pytest.mark.parametrize(("distortion", "name"), [(Cluttered(), "Cluttered"), (None, "NoneType")])
def test_an_augmentation_needs_a_warp(distortion: Distortion | None, name: str) -> None:
    with pytest.raises(ValueError, match=f"a distortion that is a warp, not {name}"):
        augmented(distortion)


def test_a_curriculum_lets_distortions_grow_pass_by_pass_to_their_full_strength() -> None:
    eased, plain = with_curriculum(0.5), module_of(RotatedScaledTranslated(), seed=3)
    for epoch in range(6):
        expected = turns(plain, "train", epoch) * min((epoch + 1) / 4, 1)
        torch.testing.assert_close(turns(eased, "train", epoch), expected, atol=1e-3, rtol=1e-4)
    assert torch.equal(by_index(eased, "train", 3), by_index(plain, "train", 3))
    assert not torch.equal(by_index(eased, "train", 2), by_index(plain, "train", 2))


@pytest.mark.parametrize("split", ["val", "test"])
def test_a_curriculum_leaves_validation_and_test_alone(split: Split) -> None:
    assert torch.equal(
        by_index(with_curriculum(0.5), split), by_index(module_of(RotatedScaledTranslated()), split)
    )


@pytest.mark.parametrize("curriculum", [-0.1, 1.1])
def test_a_curriculum_is_a_part_of_the_training(curriculum: float) -> None:
    with pytest.raises(ValueError, match="give a share of the training, 0 to 1"):
        with_curriculum(curriculum)


def test_a_curriculum_needs_to_know_how_many_passes_there_are() -> None:
    with pytest.raises(ValueError, match=r"give trainer\.max_epochs"):
        with_curriculum(0.5, max_epochs=-1)


def test_the_applied_theta_reads_the_undistorted_image_where_the_distortion_did() -> None:
    distortion = RotatedScaledTranslated()
    data = MNISTDataModule(EmbeddedDigits(), distortion, batch_size=16, seed=3)
    data.setup("fit")
    read = next(iter(data.train_dataloader()))
    theta = data.applied_theta(read)
    assert theta is not None
    expected = sampling.bilinear(read.image.float() / 255, affine.grid(theta, (42, 42)))
    assert torch.equal(data.transform_batch(read).image, expected)


@pytest.mark.parametrize("distortion", [None, Perspective(), Elastic(), Cluttered()])
def test_a_distortion_that_is_not_affine_has_no_applied_theta(
    distortion: Distortion | None,
) -> None:
    data = MNISTDataModule(EmbeddedDigits(), distortion, batch_size=4)
    data.setup("fit")
    assert data.applied_theta(next(iter(data.train_dataloader()))) is None


def test_two_digits_have_no_common_theta() -> None:
    data = AdditionDataModule(EmbeddedDigits(), Rotated(), batch_size=4)
    data.setup("fit")
    assert data.applied_theta(next(iter(data.train_dataloader()))) is None


def test_each_draw_of_the_validation_images_is_distorted_on_its_own_and_frozen() -> None:
    def validation(draws: int, batch_size: int, epoch: int) -> tuple[Tensor, Tensor]:
        data = MNISTDataModule(
            EmbeddedDigits(), Cluttered(), batch_size=batch_size, val_draws=draws
        )
        data.setup("fit")
        loader = data.val_dataloader()
        loader.sampler.set_epoch(epoch)
        batches = [data.on_after_batch_transfer(batch, 0) for batch in loader]
        return torch.cat([b.image for b in batches]), torch.cat([b.label for b in batches])

    once, labels = validation(1, 64, 0)
    thrice, thrice_labels = validation(3, 64, 0)
    n = len(labels)
    assert torch.equal(thrice[:n], once)
    assert torch.equal(thrice_labels, labels.repeat(3))
    changed = (thrice[n : 2 * n] != thrice[:n]).flatten(1).any(1)
    assert changed.all()
    assert (thrice[n : 2 * n] != thrice[2 * n :]).flatten(1).any(1).all()
    assert torch.equal(validation(3, 100, 5)[0], thrice)


def test_a_data_module_that_leaves_something_out_cannot_be_built() -> None:
    class Incomplete(MNISTDataModule):
        image_shape = BaseDataModule.image_shape

    with pytest.raises(TypeError, match="image_shape"):
        Incomplete(EmbeddedDigits())

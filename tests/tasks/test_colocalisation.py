import functools
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import Trainer
from torch import Tensor

from stn_lightning.backbones import CNN
from stn_lightning.batch import Batch
from stn_lightning.datamodules import ColocalisationDataModule
from stn_lightning.datasets import EmbeddedDigits
from stn_lightning.distortions import Cluttered
from stn_lightning.geometry import affine
from stn_lightning.tasks import ColocalisationTask
from stn_lightning.tasks.colocalisation import FoundRate, crop_box
from stn_lightning.transformers import (
    InitialTheta,
    SpatialTransformer,
    StridedLocalisation,
    Translation,
)


def data(scraps: int = 0, digit: int = 3) -> ColocalisationDataModule:
    module = ColocalisationDataModule(
        EmbeddedDigits(), Cluttered(84, scraps), digit, num_images=40, batch_size=40
    )
    module.setup("fit")
    module.setup("test")
    return module


def batch_of(module: ColocalisationDataModule, split: str, epoch: int = 0) -> Batch:
    loader = module.train_dataloader() if split == "train" else module.test_dataloader()
    loader.sampler.set_epoch(epoch)
    (batch,) = list(loader)
    drawn: Batch = module.on_after_batch_transfer(batch, 0)
    return drawn


def task(centre: tuple[float, float] = (0.0, 0.0), **options: Any) -> ColocalisationTask:
    transformer = SpatialTransformer(
        StridedLocalisation(), Translation(1 / 3), (28, 28), start=InitialTheta(centre)
    )
    made = ColocalisationTask(CNN(4), "none.ckpt", torch.optim.AdamW, transformer, **options)
    made(torch.zeros(1, 1, 84, 84))
    return made


def test_the_box_is_the_frame_in_which_the_digit_lies() -> None:
    batch = batch_of(data(), "test")
    assert batch.box is not None
    for image, box in zip(batch.image, batch.box, strict=True):
        left, top, right, bottom = ((box + 1) * 42).round().int().tolist()
        assert (right - left, bottom - top) == (28, 28)
        inside = image[0, top:bottom, left:right].count_nonzero()
        assert inside == image.count_nonzero() > 20


def test_images_stay_where_they_are_in_every_epoch_and_split() -> None:
    module = data(scraps=16)
    first, later, tested = (
        batch_of(module, "train"),
        batch_of(module, "train", epoch=1),
        batch_of(module, "test"),
    )
    assert not torch.equal(first.indices, later.indices), "the order is new"
    for batch in (first, later):
        torch.testing.assert_close(batch.image[batch.indices.argsort()], tested.image)


def test_all_images_are_of_one_class() -> None:
    assert set(batch_of(data(digit=7), "test").label.tolist()) == {7}
    with pytest.raises(ValueError, match="digit 10 is no class of the source; give 0 to 9"):
        data(digit=10)
    module = ColocalisationDataModule(EmbeddedDigits(), Cluttered(84, 0), 3, num_images=5000)
    with pytest.raises(ValueError, match=r"num_images 5000: the source has \d+ images of digit 3"):
        module.setup("fit")


def test_a_crop_that_is_the_box_is_found_and_one_half_beside_it_is_not() -> None:
    batch = batch_of(data(), "test")
    assert batch.box is not None
    centre = (batch.box[:, :2] + batch.box[:, 2:]) / 2
    for beside, share in (
        (0.0, 100.0),
        (0.2, 100.0),
        (0.24, 0.0),
    ):  # intersection over union above a half up to a third of a side
        found = FoundRate()
        shifted = centre + torch.tensor([beside, 0.0])
        found.update(
            crop_box(affine.grid(affine.from_translation(shifted, 1 / 3), (28, 28))), batch.box
        )
        assert found.compute() == share


def naive(made: ColocalisationTask, crop: Tensor, patch: Tensor, weight: float) -> float:
    """The paper's sum over pairs, as a loop."""
    total, n = 0.0, len(crop)
    for i in range(n):
        for j in range(n):
            if i != j:
                pair = (crop[i] - crop[j]).square().sum().item()
                apart = (crop[i] - patch[i]).square().sum().item()
                total += max(0.0, weight * pair - apart + made.margin) / (n * (n - 1))
    return total


@pytest.mark.parametrize("weight", [0.0, 0.4, 1.0])
def test_the_loss_is_the_hinge_over_all_pairs(weight: float) -> None:
    made, batch = task(), batch_of(data(), "test")
    batch = batch._replace(image=batch.image[:6])
    generator = torch.Generator().manual_seed(0)
    patches = made.patches(batch.image, generator)
    losses = made._losses(batch, weight, torch.Generator().manual_seed(0))
    expected = naive(made, *made.encoded(made.transformer(batch.image), patches), weight)  # type: ignore[misc]
    assert losses.mean().item() == pytest.approx(expected, rel=1e-4)


def test_e_is_of_two_layers_each_in_units_of_its_length_on_the_patches() -> None:
    made, crop, patch = task(), torch.rand(5, 1, 28, 28), torch.rand(5, 1, 28, 28)
    _, *layers = made.backbone.activations(patch)  # type: ignore[operator]
    ours, theirs = made.encoded(crop, patch)
    for layer, part in zip(
        layers, theirs.split([layer[0].numel() for layer in layers], 1), strict=True
    ):
        assert part.square().sum(1).mean().item() == pytest.approx(1)
        torch.testing.assert_close(part / part.norm(), layer.flatten(1) / layer.norm())
    half, _ = made.encoded(patch, patch)
    torch.testing.assert_close(half, theirs)
    assert not torch.equal(ours, theirs)


@pytest.mark.parametrize(("done", "weight"), [(0.1, 0.2), (0.8, 1.0)])
def test_the_weight_of_pairs_grows_and_a_process_counts_by_its_share(
    done: float, weight: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, batch = task(pair_warmup=0.5), batch_of(data(), "test")
    monkeypatch.setattr(ColocalisationTask, "_progress", lambda *_: done)
    monkeypatch.setattr(ColocalisationTask, "is_logged", False)
    monkeypatch.setattr(ColocalisationTask, "global_step", 0)
    torch.manual_seed(0)
    expected = made._losses(batch, weight).mean() * 0.25
    torch.manual_seed(0)
    torch.testing.assert_close(made.training_step(batch._replace(share=0.25), 0), expected)


def test_missing_weights_say_how_to_get_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    made = task()
    made._trainer = Trainer(logger=False, enable_checkpointing=False, accelerator="cpu")
    made._trainer.datamodule = data()  # type: ignore[attr-defined]
    with pytest.raises(
        ValueError,
        match=r"weights none.ckpt do not exist; train the encoder first: make train CONFIG=",
    ):
        made.configure_model()


def test_the_box_of_an_oblong_crop_reaches_its_border() -> None:
    grid = affine.grid(affine.from_translation(torch.tensor([[0.25, 0.0]]), 0.5), (10, 40))
    torch.testing.assert_close(crop_box(grid), torch.tensor([[-0.25, -0.5, 0.75, 0.5]]))


@pytest.mark.filterwarnings("ignore:Found .* in eval mode")  # what is frozen
def test_the_encoder_normalises_as_it_was_trained(tmp_path: Path) -> None:
    encoder = CNN(4, batch_norm=True)
    encoder(torch.zeros(1, 1, 28, 28))
    file = tmp_path / "encoder.ckpt"
    weights = {f"backbone.{name}": value for name, value in encoder.state_dict().items()}
    torch.save({"state_dict": weights}, file)
    transformer = SpatialTransformer(StridedLocalisation(), Translation(1 / 3), (28, 28))
    made = ColocalisationTask(
        CNN(4, batch_norm=True), str(file), functools.partial(torch.optim.SGD, lr=0.1), transformer
    )
    trainer = Trainer(
        accelerator="cpu",
        max_steps=2,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        limit_val_batches=0,
    )
    trainer.fit(made, data())
    for name, value in made.backbone.state_dict().items():
        assert torch.equal(value, encoder.state_dict()[name]), name


def test_weights_that_rise_with_the_training_need_its_length() -> None:
    made = task()
    made._trainer = Trainer(
        logger=False, enable_checkpointing=False, accelerator="cpu", max_epochs=-1
    )
    with pytest.raises(ValueError, match=r"pair_warmup 0.5 depends on the length of the training"):
        made.configure_optimizers()

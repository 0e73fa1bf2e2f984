import math
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.loggers import CSVLogger, WandbLogger
from PIL import Image
from torch import nn
from torch.nn import functional

from stn_lightning.batch import Batch
from stn_lightning.callbacks.drawings import (
    COLOURS,
    Caption,
    crop_caption,
    draw,
    outline,
    prediction_captions,
    to_displayable,
)
from stn_lightning.callbacks.image_loggers import log_image
from stn_lightning.callbacks.misclassified_images import gallery
from stn_lightning.callbacks.warp_images import (
    WarpImages,
    is_logged,
    spread,
    spread_over_classes,
)
from stn_lightning.datamodules import MNISTDataModule
from stn_lightning.datasets import EmbeddedDigits
from stn_lightning.datasets.sources import ImageTensorSource
from stn_lightning.geometry import affine, sampling
from stn_lightning.tasks import ClassificationTask, StepOutput
from stn_lightning.transformers import (
    Affine,
    ConvolutionalLocalisation,
    FullyConnectedLocalisation,
    NoisyIdentity,
    ParallelTransformer,
    SpatialTransformer,
    Tiling,
    Translation,
    WarpOutput,
    compose_records,
    record_warps,
)


def test_the_outline_of_the_identity_runs_along_the_rim_of_the_image() -> None:
    grid = affine.grid(torch.tensor([[1.0, 0, 0, 0, 1, 0]]), (28, 28))[0]
    line = torch.tensor(outline(grid, 112))
    assert (
        line[0].tolist() == line[-1].tolist() == pytest.approx([1.5, 1.5])
    )  # the centre of the first of 28 pixels, 4 to 1
    assert line.amin() == pytest.approx(1.5)
    assert line.amax() == pytest.approx(109.5)


def test_the_outline_of_a_crop_on_the_right_lies_on_the_right() -> None:
    grid = affine.grid(torch.tensor([[0.5, 0, 0.5, 0, 0.5, 0]]), (28, 28))[0]
    xs, ys = torch.tensor(outline(grid, 112)).T
    assert xs.min() > 55
    assert 27 < ys.min() < ys.max() < 84


def test_an_outline_far_outside_stays_drawable() -> None:
    grid = affine.grid(torch.tensor([[1e9, 0, 0, 0, 1e9, 0]]), (4, 4))[0]
    assert torch.tensor(outline(grid, 112)).abs().max() < 500


def test_the_panel_shows_each_image_its_outline_and_its_crop() -> None:
    image = torch.rand(5, 1, 42, 42)
    transformer = SpatialTransformer(
        ConvolutionalLocalisation(), Affine(), (28, 28), start=NoisyIdentity(0.2)
    )
    panel = draw(image, transformer.warp(image), side=84, columns=4)
    assert panel.shape == (2 * 92, 4 * (2 * 88 + 8), 3)
    red = (panel == np.array([255, 65, 54])).all(-1)
    assert red[:92, :92].sum() > 50  # an outline in the first image
    assert not red[:92, 92:180].any()  # and none in its crop
    assert (panel[96:, 200:] == 255).all()  # the second row holds one image


def test_a_crop_is_drawn_as_it_is() -> None:
    image = torch.rand(1, 3, 28, 28)
    transformer = SpatialTransformer(ConvolutionalLocalisation(), Affine())
    panel = draw(image, transformer.warp(image), side=28, columns=1)
    crop = panel[4:32, 36:64]
    assert np.array_equal(crop, image[0].mul(255).round().byte().permute(1, 2, 0).numpy())


def test_parallel_transformers_get_outlines_of_different_colours() -> None:
    image = torch.zeros(1, 1, 42, 42)
    transformer = ParallelTransformer(
        ConvolutionalLocalisation(), Translation(0.5), 2, (28, 28), start=Tiling()
    )
    panel = draw(image, transformer.warp(image))
    assert panel.shape[1] == 3 * 116 + 8
    for colour in COLOURS[:2]:
        rgb = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)])
        assert (panel == rgb).all(-1).any()


def test_the_outline_of_transformers_in_a_row_is_that_of_warping_by_one_after_the_other() -> None:
    image = torch.rand(2, 3, 64, 64)
    network = nn.Sequential(
        *(
            SpatialTransformer(
                FullyConnectedLocalisation([8]), Affine(), start=NoisyIdentity(0.2, seed)
            )
            for seed in (1, 2)
        )
    )
    with record_warps(network) as records:
        twice = network(image)
    composed = compose_records(records, image)
    assert composed is not None
    found = composed.output
    smooth = functional.avg_pool2d(image, 9, 1, 4)  # resampling twice blurs what is not smooth
    expected = sampling.bilinear(
        sampling.bilinear(smooth, records[0].output.grid), records[1].output.grid
    )
    seen = (found.grid.abs() < 0.8) & (
        records[1].output.grid.abs() < 0.95
    )  # what the first warp left out, the second cannot show
    inside = seen.all(-1)[:, None].expand(-1, 3, -1, -1)
    torch.testing.assert_close(
        sampling.bilinear(smooth, found.grid)[inside], expected[inside], rtol=0, atol=0.05
    )
    assert twice.shape == found.image.shape
    assert compose_records(records[:1], image) is records[0]
    assert compose_records([], image) is None


def test_a_number_stands_below_its_image_in_red_where_it_is_misclassified() -> None:
    logits = functional.one_hot(
        torch.tensor([[2, 1, 10, 10, 10], [7, 10, 10, 10, 10], [10] * 5]), 11
    ).float()
    label = torch.tensor([[2, 1, 10, 10, 10], [1, 7, 10, 10, 10], [3, 10, 10, 10, 10]])
    captions = prediction_captions(logits, label, (*"0123456789", ""))
    assert captions == [
        Caption("21 -> 21\n0%", True),
        Caption("17 -> 7\n0%", False),
        Caption("3 -> nothing\n0%", False),
    ]
    image = torch.zeros(3, 3, 32, 32)
    transformer = SpatialTransformer(
        FullyConnectedLocalisation([8]), Affine(), start=NoisyIdentity(0.1)
    )
    panel = draw(image, transformer.warp(image), side=64, columns=3, captions=captions)
    strip = panel[4 + 64 : 4 + 64 + 28].astype(int)
    red = np.any(strip[..., 0] > strip[..., 1] + 60, axis=0)
    assert isinstance(red, np.ndarray)
    assert not red[:144].any()
    assert red[144:288].any()
    assert red[288:].any()


def test_normalised_images_are_drawn_in_their_whole_range_and_others_as_they_are() -> None:
    plain = torch.rand(2, 3, 8, 8)
    normalised = plain * 2 - 0.7
    image, crop = to_displayable(normalised, normalised[:, :, 2:4])
    low, high = (
        plain.flatten(1).amin(1)[:, None, None, None],
        plain.flatten(1).amax(1)[:, None, None, None],
    )
    torch.testing.assert_close(image, (plain - low) / (high - low))
    torch.testing.assert_close(crop, image[:, :, 2:4])
    assert torch.equal(to_displayable(plain, plain)[0], plain)


def test_the_gallery_shows_each_image_with_its_caption() -> None:
    panel = gallery(
        torch.full((10, 3, 64, 64), 0.5), (Caption("12, is 17", False),) * 10, side=32, columns=8
    )
    assert panel.shape == (2 * 66, 8 * 40, 3)
    assert (panel[4:36, 4:36] == 128).all()
    assert (panel[36:66, :40] < 100).any()


@pytest.mark.parametrize(("number", "batches", "size"), [(16, 10, 64), (12, 40, 256), (16, 1, 50)])
def test_drawn_images_are_spread_over_all_batches(number: int, batches: int, size: int) -> None:
    chosen = [spread(number, batches, i, size) for i in range(batches)]
    places = [size * i + k for i, of_batch in enumerate(chosen) for k in of_batch]
    assert len(set(places)) == number
    gaps = torch.tensor([*places, size * batches]).diff()
    assert gaps.max() <= 2 * size * batches / number
    assert spread(number, batches, 0, 0) == []


def test_after_each_epoch_the_same_images_of_several_batches_are_drawn(tmp_path: Path) -> None:
    class Seen(WarpImages):
        batches: ClassVar[list[int]] = []

        def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
            self.batches.append(len(self.examples))
            super().on_validation_end(trainer, pl_module)

    class Few(ImageTensorSource):
        class_names = EmbeddedDigits.class_names
        load = EmbeddedDigits().load

    transformer = SpatialTransformer(FullyConnectedLocalisation([4]), Affine())
    task = ClassificationTask(
        nn.Sequential(nn.Flatten(), nn.Linear(28 * 28, 10)),
        lambda p: torch.optim.SGD(p, 0.1),
        transformer,
    )
    trainer = Trainer(
        accelerator="cpu",
        devices=1,
        callbacks=[Seen(8)],
        default_root_dir=tmp_path,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        limit_val_batches=4,
    )
    trainer.validate(task, MNISTDataModule(Few(), batch_size=50), verbose=False)
    assert Seen.batches == [4]
    with Image.open(tmp_path / "panel.png") as panel:
        assert panel.size == (4 * (2 * 116 + 8), 2 * (120 + 28))


@pytest.mark.parametrize("angle", [0, 30, -90])
def test_a_crop_is_described_by_its_angle_its_size_and_its_place(angle: int) -> None:
    turn = math.radians(angle)
    c, s = 0.5 * math.cos(turn), 0.5 * math.sin(turn)
    grid = affine.grid(torch.tensor([[c, -s, 0.25, s, c, -0.5]]), (7, 7))[0]
    assert crop_caption(grid, (40, 40)) == f"{angle} deg, 0.50\n+5.0, -10.0 px"


def test_a_mirrored_crop_is_called_so_and_a_half_turn_has_one_angle() -> None:
    mirrored = torch.tensor([[-0.5, 0, 0, 0, 0.5, 0]])
    assert crop_caption(affine.grid(mirrored, (8, 8))[0], (40, 40)).startswith("mirrored, 0.50\n")
    for turn in (1e-3, -1e-3):
        theta = torch.tensor([[-1.0, turn, 0, -turn, -1, 0]])
        assert crop_caption(affine.grid(theta, (8, 8))[0], (40, 40)).startswith("180 deg, 1.00\n")


def test_the_upper_edge_is_thicker() -> None:
    for turn, thick in (((0.5, 0, 0, 0, 0.5, 0), "top"), ((-0.5, 0, 0, 0, -0.5, 0), "bottom")):
        grid = affine.grid(torch.tensor([turn]), (8, 8))
        warp = WarpOutput(torch.zeros(1, 1, 8, 8), torch.tensor([turn]), grid)
        panel = draw(torch.zeros(1, 1, 64, 64), warp, side=64)[4:68, 4:68]
        red = (panel == np.array([255, 65, 54])).all(-1).sum(1)  # in each row
        full = {"top": (red[:32] > 20).sum(), "bottom": (red[32:] > 20).sum()}
        assert full[thick] == 2 * full[{"top": "bottom", "bottom": "top"}[thick]] == 4


def test_each_class_is_drawn_wherever_the_validation_has_it(tmp_path: Path) -> None:
    callback, task = WarpImages(10), LightningModule()
    trainer = Trainer(logger=False, accelerator="cpu", default_root_dir=tmp_path)
    trainer.datamodule = MNISTDataModule(EmbeddedDigits())  # type: ignore[attr-defined]
    transformer = SpatialTransformer(FullyConnectedLocalisation([4]), Affine())
    callback.on_validation_start(trainer, task)
    for labels in ([0] * 8, [1, 0, 1, 2], list(range(10))):
        image, label = torch.rand(len(labels), 1, 8, 8), torch.tensor(labels)
        with record_warps(transformer) as records:
            transformer(image)
        logits = functional.one_hot(label, 10).float()
        batch = Batch(image, label, label, 0, 1.0, "val")
        callback.on_validation_batch_end(trainer, task, StepOutput(logits, records), batch, 1)
    drawn = torch.cat([each.label for each in callback.examples])
    assert drawn.tolist() == list(range(10))
    callback.on_validation_end(trainer, task)
    with Image.open(tmp_path / "panel.png") as panel:
        assert panel.size == (4 * (2 * 116 + 8), 3 * (112 + 8 + 28))
    assert spread_over_classes(torch.tensor([0, 0, 0, 1, 1, 2]), 5) == [0, 3, 5, 1, 4]


def test_panels_of_a_long_training_are_few() -> None:
    for max_epochs in (1, 7, 31, 60, 1000):
        logged = [epoch for epoch in range(max_epochs) if is_logged(epoch, max_epochs)]
        assert logged[0] == 0
        assert logged[-1] == max_epochs - 1
        assert min(max_epochs, 15) <= len(logged) <= 32
    assert sum(is_logged(epoch, -1) for epoch in range(100_000)) < 50


def test_loggers_that_take_images_get_them_and_others_do_not(tmp_path: Path) -> None:
    class Images(WandbLogger):
        def __init__(self) -> None:
            self.got: list[tuple[str, tuple[int, ...], int]] = []

        def log_image(self, key: str, images: list[Any], step: int | None = None, **_: Any) -> None:
            self.got.append((key, images[0].shape, int(step or 0)))

    taking = Images()
    trainer = Trainer(logger=[CSVLogger(tmp_path), taking], accelerator="cpu")
    log_image(trainer, "panel", np.zeros((4, 5, 3), np.uint8))
    assert taking.got == [("panel", (4, 5, 3), 0)]

import numpy as np
import pytest
import torch

from stn_lightning.callbacks.panel import COLOURS, draw, outline
from stn_lightning.geometry import affine
from stn_lightning.transformers import (
    Affine,
    ConvolutionalLocalisation,
    Disturbed,
    ParallelTransformer,
    SpatialTransformer,
    Tiling,
    Translation,
)


def test_the_outline_of_the_identity_runs_along_the_rim_of_the_picture() -> None:
    grid = affine.grid(torch.tensor([[1.0, 0, 0, 0, 1, 0]]), (28, 28))[0]
    line = torch.tensor(outline(grid, 112))
    assert line[0].tolist() == line[-1].tolist() == pytest.approx([1.5, 1.5])  # the centre of the first of 28 pixels, 4 to 1
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


def test_the_panel_shows_each_picture_its_outline_and_its_crop() -> None:
    image = torch.rand(5, 1, 42, 42)
    transformer = SpatialTransformer(ConvolutionalLocalisation(), Affine(), (28, 28), start=Disturbed(0.2))
    panel = draw(image, transformer.warp(image), side=84, columns=4)
    assert panel.shape == (2 * 92, 4 * (2 * 88 + 8), 3)
    red = (panel == np.array([255, 65, 54])).all(-1)
    assert red[:92, :92].sum() > 50  # an outline in the first picture
    assert not red[:92, 92:180].any()  # and none in its crop
    assert (panel[96:, 200:] == 255).all()  # the second row holds one picture


def test_a_crop_is_drawn_as_it_is() -> None:
    image = torch.rand(1, 3, 28, 28)
    transformer = SpatialTransformer(ConvolutionalLocalisation(), Affine())
    panel = draw(image, transformer.warp(image), side=28, columns=1)
    crop = panel[4:32, 36:64]
    assert np.array_equal(crop, image[0].mul(255).round().byte().permute(1, 2, 0).numpy())


def test_parallel_transformers_get_outlines_of_different_colours() -> None:
    image = torch.zeros(1, 1, 42, 42)
    transformer = ParallelTransformer(ConvolutionalLocalisation(), Translation(0.5), 2, (28, 28), start=Tiling())
    panel = draw(image, transformer.warp(image))
    assert panel.shape[1] == 3 * 116 + 8
    for colour in COLOURS[:2]:
        rgb = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)])
        assert (panel == rgb).all(-1).any()

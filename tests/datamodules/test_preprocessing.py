"""Images from files: how they are preprocessed, and where a point of the image lies in them."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch.nn import functional

from stn_lightning.analysis.run import load_run
from stn_lightning.datamodules import MNISTDataModule
from stn_lightning.datamodules.preprocessing import (
    PreprocessedImage,
    Preprocessing,
    centre_crop,
    fit_centre,
    ink_on_paper,
    is_light_background,
    stretch,
)
from stn_lightning.datasets import EmbeddedDigits


def test_an_image_of_the_networks_size_stays_as_it_is() -> None:
    original = torch.randint(256, (3, 12, 10), dtype=torch.uint8)
    fit = fit_centre(original, (3, 12, 10))
    torch.testing.assert_close(fit.image, original.float() / 255, rtol=0, atol=0)
    assert (fit.origin, fit.scale) == ((0, 0), (1, 1))


def test_a_small_image_is_not_enlarged_but_lies_in_the_middle_of_zeros() -> None:
    fit = fit_centre(torch.full((3, 2, 4), 255, dtype=torch.uint8), (1, 6, 6))
    assert fit.image[0, 2:4, 1:5].eq(1).all()
    assert fit.image.sum() == 8
    assert fit.origin == (-1, -2)


def test_grey_is_what_pillow_calls_grey() -> None:
    original = np.random.default_rng(0).integers(256, size=(5, 5, 3), dtype=np.uint8)
    expected = torch.from_numpy(np.array(Image.fromarray(original).convert("L"))) / 255
    actual = fit_centre(torch.from_numpy(original).permute(2, 0, 1), (1, 5, 5)).image[0]
    torch.testing.assert_close(
        actual, expected, rtol=0, atol=1.01 / 255
    )  # Pillow rounds its weights to 16 bits


@given(st.integers(1, 90), st.integers(1, 90))
def test_all_of_a_large_original_is_in_the_image_in_its_proportions(
    rows: int, columns: int
) -> None:
    fit = fit_centre(torch.full((3, rows, columns), 255, dtype=torch.uint8), (1, 30, 20))
    ink = fit.image[0] > 0.5
    assert int(ink.any(1).sum()) == max(1, round(rows * min(1, 30 / rows, 20 / columns)))
    assert int(ink.any(0).sum()) == max(1, round(columns * min(1, 30 / rows, 20 / columns)))


def test_the_house_numbers_mean_is_subtracted() -> None:
    image = torch.randint(256, (3, 30, 40), dtype=torch.uint8)
    result = Preprocessing("stretch", subtract_mean=True)(image, (3, 30, 40)).image
    torch.testing.assert_close(result, image / 255 - (image / 255).mean())


@pytest.mark.parametrize(("resize", "side"), [("crop", None), ("fit", 20)])
def test_a_side_goes_with_a_crop(resize: Any, side: int | None) -> None:
    with pytest.raises(ValueError, match="give it for resize 'crop', and for no other"):
        Preprocessing(resize, side)


def at_the_brightest(fit: PreprocessedImage) -> tuple[float, float]:
    """Where in the original the brightest point of the image lies, weighted by how bright."""
    _, height, width = fit.image.shape
    weight = fit.image.mean(0) / fit.image.mean(0).sum()
    x = ((torch.arange(width) + 0.5) * 2 / width - 1)[None].expand_as(weight)
    y = ((torch.arange(height) + 0.5) * 2 / height - 1)[:, None].expand_as(weight)
    where = fit.to_original(torch.stack([(weight * x).sum(), (weight * y).sum()]))
    return float(where[0]), float(where[1])


@pytest.mark.parametrize("how", ["whole", "stretched", "middle"])
def test_convention_a_point_of_the_image_is_found_again_in_the_original(how: str) -> None:
    """In pixels from the original's upper left corner; its first pixel's middle is (0.5, 0.5)."""
    original = torch.zeros(3, 60, 90, dtype=torch.uint8)
    original[:, 24:27, 39:42] = 255
    fits = {
        "whole": lambda: fit_centre(original, (1, 32, 30)),
        "stretched": lambda: stretch(original, (3, 20, 15)),
    }
    fit = fits.get(how, lambda: centre_crop(original, 20, 18))()
    assert at_the_brightest(fit) == pytest.approx((40.5, 25.5), abs=0.2)


def test_dark_ink_on_light_paper_becomes_light_ink_on_nothing() -> None:
    digits = EmbeddedDigits().load("test").image[:5].expand(-1, 3, -1, -1)
    module = MNISTDataModule(EmbeddedDigits())
    for digit in digits:
        assert is_light_background(255 - digit)
        assert not is_light_background(digit)
        shape = (1, *digit.shape[1:])
        torch.testing.assert_close(
            module.preprocess(255 - digit, shape).image, digit[:1] / 255, rtol=0, atol=0
        )


@pytest.mark.parametrize(
    ("paper", "ink", "shade"),
    [((245, 245, 245), 0, 0.0), ((240, 235, 210), 40, 0.0), ((190, 188, 180), 50, 0.15)],
    ids=["off-white", "yellow", "a photo with a shade"],
)
def test_a_digit_on_paper_is_read_as_on_white(
    paper: tuple[int, int, int], ink: int, shade: float
) -> None:
    digits = EmbeddedDigits().load("test")
    run = load_run("zoo:quickstart", device="cpu")
    rows = torch.arange(100)
    strength = functional.interpolate(digits.image[rows].float() / 255, scale_factor=4)
    strength = functional.pad(strength, 4 * [28])
    level = torch.tensor(paper)[None, :, None, None] * (1 - strength) + ink * strength
    level = level * (1 - shade * torch.linspace(0, 1, level.shape[3]))
    noise = 3 * torch.randn(level.shape, generator=torch.Generator().manual_seed(0))
    scans = (level + noise).round().clamp(0, 255).to(torch.uint8)
    images = [run.data.preprocessing(scan, (1, 42, 42)).image for scan in scans]
    answer = run.infer(torch.stack(images))[0].argmax(1)
    assert (answer != digits.label[rows]).float().mean() < 0.04


def test_ink_that_reaches_the_border_is_no_paper() -> None:
    image = torch.full((3, 20, 20), 255, dtype=torch.uint8)
    image[:, :6] = 0  # more than a tenth of the border
    assert ink_on_paper(image).eq(255 - image).all()

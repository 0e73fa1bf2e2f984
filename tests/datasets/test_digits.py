import hashlib
from fractions import Fraction
from typing import get_args

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from stn_lightning.batch import Split
from stn_lightning.datasets import EmbeddedDigits

SPLITS: tuple[Split, ...] = get_args(Split)


@pytest.mark.parametrize(
    ("split", "size", "images", "labels"),
    [
        (
            "train",
            1097,
            "b0210cd4f0b04b8c60d2113cddccf27c1668dd87c458e80bda5c49e9ee9fd5ef",
            "d05f38adbcd267fa3d7be9a276b9db8b11ece8e4f3a1f145c18fdadee99ae471",
        ),
        (
            "val",
            200,
            "830e007cd14adfb98444cbda12118f1452ad9c9a3ec379d55f5f75510a9c8508",
            "bb60b8b5ec69d61ec317ac6b91b2edd4203681b699491b459372235e2ef786e0",
        ),
        (
            "test",
            500,
            "e8810c7c9f66ecef8cca91d2687202ec7c6928fecf0bb7f0a080fa1f913b1d8d",
            "9b333b5f7eb8e62df8640a815db38b8c21a696d645594cc5a7ff9d53405baf54",
        ),
    ],
)
def test_each_split_has_its_size_and_its_content(
    split: Split, size: int, images: str, labels: str
) -> None:
    loaded = EmbeddedDigits().load(split)
    assert loaded.image.shape == (size, 1, 28, 28)
    assert loaded.image.dtype == torch.uint8
    assert loaded.label.shape == (size,)
    assert hashlib.sha256(loaded.image.numpy().tobytes()).hexdigest() == images
    assert hashlib.sha256(loaded.label.numpy().astype("<i8").tobytes()).hexdigest() == labels


def test_the_splits_hold_every_digit_once_and_share_none() -> None:
    pixels, labels = load_digits(return_X_y=True)
    at_centres = torch.cat([EmbeddedDigits().load(split).image for split in SPLITS])
    together = torch.cat([EmbeddedDigits().load(split).label for split in SPLITS])
    assert torch.bincount(together).tolist() == np.bincount(labels).tolist()
    assert len(at_centres.flatten(1).unique(dim=0)) == len(np.unique(pixels, axis=0)) == 1797


def test_every_class_is_in_every_split() -> None:
    for split in SPLITS:
        assert EmbeddedDigits().load(split).label.unique().tolist() == list(range(10))


def keys(i: int) -> list[tuple[int, Fraction]]:
    """Keys' cubic kernel (A = -3/4) at output pixel `i` of 20 for an input of 8, as exact
    fractions.
    """
    a = Fraction(-3, 4)
    x = (Fraction(i) + Fraction(1, 2)) * Fraction(8, 20) - Fraction(1, 2)
    first = x.numerator // x.denominator
    weights = []
    for k in range(first - 1, first + 3):
        d = abs(x - k)
        near, far = (a + 2) * d**3 - (a + 3) * d**2 + 1, a * d**3 - 5 * a * d**2 + 8 * a * d - 4 * a
        weights.append((min(max(k, 0), 7), near if d <= 1 else far))
    return weights


def test_digits_are_enlarged_to_20_by_20_in_the_middle_of_28_by_28() -> None:
    """An oracle in exact fractions, as the loaded must not depend on a processor's last bit."""
    pixels, labels = load_digits(return_X_y=True)
    loaded = EmbeddedDigits().load("val")
    assert not loaded.image[:, :, :4].any()
    assert not loaded.image[:, :, 24:].any()
    assert not loaded.image[:, :, :, :4].any()
    assert not loaded.image[:, :, :, 24:].any()
    weights = np.zeros((20, 8), dtype=object)
    for i in range(20):
        for k, weight in keys(i):
            weights[i, k] += weight
    order = torch.randperm(1797, generator=torch.Generator().manual_seed(2015))[1097:1297].tolist()
    for n in range(0, 200, 10):
        original = pixels[order[n]].reshape(8, 8).astype(int).astype(object)
        exact = weights @ original @ weights.T * Fraction(255, 16)
        expected = [
            [min(max((2 * value + 1) // 2, 0), 255) for value in row] for row in exact
        ]  # halves go up
        assert loaded.image[n, 0, 4:24, 4:24].tolist() == expected
        assert loaded.label[n] == labels[order[n]]

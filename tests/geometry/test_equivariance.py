import math

import pytest
import torch
from torch import Tensor

from stn_lightning.geometry import affine
from stn_lightning.geometry.equivariance import equivariance_penalty

CROP = torch.tensor([[0.5, 0.1, 0.2, -0.1, 0.4, -0.3]])
MOVE = torch.tensor([[0.8, -0.3, 0.1, 0.3, 0.8, -0.2]])


def grid(theta: Tensor) -> Tensor:
    return affine.grid(theta, (20, 20))


def penalty(moved_crop: Tensor, crop: Tensor = CROP, move: Tensor = MOVE) -> Tensor:
    return equivariance_penalty(grid(crop), grid(moved_crop), move)


def test_a_crop_that_moves_with_its_image_has_no_penalty() -> None:
    follows = affine.compose(affine.inverse(MOVE), CROP)
    assert penalty(follows).item() == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize("side", [0.5, 0.05])
def test_the_penalty_is_the_distance_in_halves_of_the_crops_side(side: float) -> None:
    def crop(x: float) -> Tensor:
        return torch.tensor([[side, 0, x, 0, side, 0.0]])

    identity = torch.tensor([affine_identity()])
    assert penalty(crop(side), crop(0.0), identity).item() == pytest.approx(1, abs=0.02)
    assert penalty(crop(0.1 * side), crop(0.0), identity).item() == pytest.approx(0.09, abs=0.005)


def test_a_crop_that_stays_is_penalised_by_the_angle_of_the_move() -> None:
    angle = math.radians(30)
    cosine, sine = math.cos(angle), math.sin(angle)
    rotation = torch.tensor([[cosine, -sine, 0, sine, cosine, 0]])
    whole = torch.tensor([affine_identity()])
    chord = 2 * math.sin(angle / 2) * math.sqrt(2 / 3)  # of points from -1 to 1 along both axes
    assert penalty(whole, whole, rotation).item() == pytest.approx(chord, abs=0.02)


def test_both_crops_get_a_gradient() -> None:
    crop = torch.tensor([[0.5, 0, 0, 0, 0.5, 0.0]], requires_grad=True)
    moved = torch.tensor([[0.5, 0, 0.1, 0, 0.5, 0.0]], requires_grad=True)
    penalty(moved, crop, torch.tensor([affine_identity()])).sum().backward()
    assert crop.grad is not None
    assert moved.grad is not None
    assert moved.grad[0, 2] > 0 > crop.grad[0, 2], "they approach each other along x"


@pytest.mark.parametrize("factor", [0.1, 3.0])
def test_crops_that_shrink_or_grow_together_have_the_same_penalty(factor: float) -> None:
    rotation = torch.tensor([[0.8, -0.6, 0, 0.6, 0.8, 0]])
    one = penalty(CROP, CROP, rotation)
    assert one.item() > 0.5
    assert penalty(factor * CROP, factor * CROP, rotation).item() == pytest.approx(one.item())


def test_a_crop_without_area_has_a_finite_penalty_and_gradient() -> None:
    crop = torch.zeros(1, 6, requires_grad=True)
    penalty(torch.zeros(1, 6), crop).sum().backward()
    assert crop.grad is not None
    assert crop.grad.isfinite().all()


def affine_identity() -> list[float]:
    return [1.0, 0.0, 0.0, 0.0, 1.0, 0.0]

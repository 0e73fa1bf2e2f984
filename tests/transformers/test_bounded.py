import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from stn_lightning.transformers import (
    Affine,
    Affine3D,
    Attention,
    BoundedFamily,
    Family,
    FullyConnectedLocalisation,
    ParallelTransformer,
    Projective,
    SpatialTransformer,
    ThinPlateSpline,
    Tiling,
    Translation,
)

FAMILIES: list[Family] = [
    Translation(0.5),
    Attention(),
    Affine(),
    Projective(),
    ThinPlateSpline(),
    Affine3D(),
]
all_families = pytest.mark.parametrize("family", FAMILIES, ids=lambda family: type(family).__name__)
CROP = BoundedFamily(Attention(), [0.2, -0.9, -0.9], [1.2, 0.9, 0.9])


def around(family: Family, room: float = 0.5) -> BoundedFamily:
    return BoundedFamily(
        family,
        [number - room for number in family.identity],
        [number + 2 * room for number in family.identity],
    )


@all_families
def test_at_the_identity_the_grid_and_its_gradient_are_the_familys_own_bit_for_bit(
    family: Family,
) -> None:
    size = (3, 9, 7) if isinstance(family, Affine3D) else (9, 7)
    theta = torch.tensor([family.identity]).requires_grad_()
    grid, own = around(family)(theta, size), family(theta, size)
    assert torch.equal(grid, own)
    weights = torch.rand_like(own)
    gradients = [torch.autograd.grad((each * weights).sum(), theta)[0] for each in (grid, own)]
    assert torch.equal(*gradients)


@given(st.floats(-1e20, 1e20), st.integers(0, 2))
def test_no_number_leaves_its_range_however_far_theta_goes(value: float, which: int) -> None:
    theta = torch.tensor([Attention.identity])
    theta[0, which] = value
    inside = CROP.bound(theta)[0, which].item()
    assert CROP.low[which] - 1e-6 <= inside <= CROP.high[which] + 1e-6
    if abs(value) >= 1e5:
        assert inside == pytest.approx(CROP.high[which] if value > 0 else CROP.low[which])


def test_the_range_is_that_of_the_formula() -> None:
    for x in (-3.0, -0.7, 0.2, 5.0):
        h = 0.8 if x < 0 else 0.2  # from 1 down to 0.2, up to 1.2
        expected = 1 + x / math.sqrt(1 + (x / h) ** 2)
        assert CROP.bound(torch.tensor([[1 + x, 0, 0]], dtype=torch.float64))[
            0, 0
        ].item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("corner", list(itertools.product([-1, 1], [-1, 1])), ids=str)
def test_a_crop_can_reach_every_corner_and_gradient_descent_takes_it_there(
    corner: tuple[int, int],
) -> None:
    """Where another's sigmoid lets crops sit only right of and below the centre."""
    theta = torch.tensor([Attention.identity]).requires_grad_()
    wanted = Attention()(torch.tensor([[0.25, 0.75 * corner[0], 0.75 * corner[1]]]), (8, 8))
    optimiser = torch.optim.Adam([theta], lr=0.1)
    for _ in range(150):
        optimiser.zero_grad()
        (CROP(theta, (8, 8)) - wanted).square().mean().backward()
        optimiser.step()
    assert (CROP(theta, (8, 8)) - wanted).abs().max() < 0.02


def test_the_gradient_at_ten_ranges_is_still_alive() -> None:
    """tanh's is exactly zero there in float32: 1 - tanh(10)^2."""
    theta = torch.tensor([[1.0, 9.0, 0.0]]).requires_grad_()
    CROP.bound(theta)[0, 1].backward()
    assert theta.grad is not None
    assert 5e-4 < theta.grad[0, 1] < 2e-3


@all_families
def test_gradients_pass_gradcheck(family: Family) -> None:
    noise = torch.randn(
        2, len(family.identity), generator=torch.Generator().manual_seed(1), dtype=torch.float64
    )
    theta = (torch.tensor([family.identity], dtype=torch.float64) + 0.4 * noise).requires_grad_()
    size = (2, 3, 4) if isinstance(family, Affine3D) else (3, 4)
    assert torch.autograd.gradcheck(lambda theta: around(family)(theta, size), theta)
    assert torch.autograd.gradgradcheck(around(family).bound, theta)


@pytest.mark.parametrize("value", [1e6, 1e20, -1e20])
def test_huge_parameters_give_finite_gradients(value: float) -> None:
    theta = torch.full((1, 6), value).requires_grad_()
    around(Affine())(theta, (4, 5)).square().sum().backward()
    assert theta.grad is not None
    assert torch.isfinite(theta.grad).all()


def test_a_theta_in_half_precision_is_bounded_in_float32() -> None:
    theta = torch.tensor([[0.5, 0.25, -0.75]])
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(CROP.bound(theta.bfloat16()), CROP.bound(theta))
    assert torch.equal(CROP.bound(theta.bfloat16()), CROP.bound(theta))


def test_unbound_is_the_inverse_of_bound() -> None:
    theta = CROP.bound(torch.tensor([[3.0, -1.0, 0.1], [0.1, 0.0, 0.4]], dtype=torch.float64))
    torch.testing.assert_close(CROP.bound(CROP.unbound(theta)), theta)
    with pytest.raises(
        ValueError,
        match=r"is not within its bounds, \(0.2, -0.9, -0.9\) to \(1.2, 0.9, 0.9\); widen them",
    ):
        CROP.unbound(torch.tensor([[1.0, 0.0, 0.95]]))


def test_bounded_crops_can_start_by_tiling() -> None:
    def crops(family: Family) -> Tensor:
        transformer = ParallelTransformer(
            FullyConnectedLocalisation([8]), family, 4, (8, 8), start=Tiling()
        )
        return transformer.warp(torch.rand(2, 1, 16, 16)).grid

    torch.testing.assert_close(
        crops(BoundedFamily(Translation(0.5), -0.8, 0.8)),
        crops(Translation(0.5)),
        rtol=0,
        atol=1e-6,
    )


def test_a_bounded_transformer_in_double_precision_starts_at_the_identity() -> None:
    image = torch.rand(2, 1, 16, 16, dtype=torch.float64)
    transformer = SpatialTransformer(FullyConnectedLocalisation([8]), around(Affine())).double()
    assert torch.equal(transformer(image), image)


@pytest.mark.parametrize(
    ("low", "high", "said"),
    [
        ([0.5, -1.0], 1.5, "low has 2 numbers, theta has 3; give one for each, or one for all"),
        (-1.0, [2.0] * 4, "high has 4 numbers, theta has 3"),
        (-1.0, 1.0, "the range from -1 to 1 does not contain the identity, 1; widen it"),
    ],
)
def test_a_range_that_does_not_fit_is_refused_with_advice(
    low: float | list[float], high: float | list[float], said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        BoundedFamily(Attention(), low, high)

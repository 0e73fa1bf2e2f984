import math

import pytest
import torch
from torch import Tensor

from stn_lightning.geometry import diffeomorphic, lattice, sampling
from stn_lightning.transformers import Diffeomorphic, ThinPlateSpline

MIDDLE = (..., slice(8, 32), slice(8, 32), slice(None))
"""Of 40 x 40 points: those from where nothing flows out of the image."""


def velocities(k: int, std: float, batch: int = 4, seed: int = 0) -> Tensor:
    return std * torch.randn(
        batch, 2 * k * k, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)
    )


def linear(rows: list[list[float]], resolution: int) -> Tensor:
    """The field whose velocity at p is a matrix times p, and the matrix."""
    matrix = torch.tensor(rows, dtype=torch.float64)
    return (lattice.points((resolution, resolution), matrix) @ matrix.T)[None]


def determinant(grid: Tensor) -> Tensor:
    """Of the map's derivative between neighbouring pixels."""
    right, down = grid[:, :-1, 1:] - grid[:, :-1, :-1], grid[:, 1:, :-1] - grid[:, :-1, :-1]
    area = 4 / (grid.shape[1] * grid.shape[2])
    return (right[..., 0] * down[..., 1] - right[..., 1] * down[..., 0]) / area


def test_convention_a_velocity_to_the_right_moves_the_content_left() -> None:
    velocity = torch.zeros(1, 5, 5, 2)
    velocity[..., 0] = 0.5
    image = torch.arange(1.0, 9.0).reshape(1, 1, 2, 4)
    assert sampling.bilinear(image, diffeomorphic.grid(velocity, (2, 4)))[0, 0].tolist() == [
        [2, 3, 4, 0],
        [6, 7, 8, 0],
    ]


@pytest.mark.parametrize(
    "rows",
    [[[0.0, -0.5], [0.5, 0.0]], [[0.3, 0.0], [0.0, -0.4]], [[0.2, 0.3], [0.1, -0.2]]],
    ids=["turn", "stretch", "both"],
)
def test_a_linear_field_flows_as_the_exponential_of_its_matrix(rows: list[list[float]]) -> None:
    expected = (
        lattice.points((40, 40), torch.empty(0).double())
        @ torch.linalg.matrix_exp(torch.tensor(rows).double()).T
    )
    grid = diffeomorphic.grid(linear(rows, 32), (40, 40))[0]
    torch.testing.assert_close(grid[MIDDLE], expected[MIDDLE], rtol=0, atol=0.004)


def runge_kutta(velocity: Tensor, steps: int = 80) -> Tensor:
    """The same flow, by following every point."""

    def at(place: Tensor) -> Tensor:
        return sampling.bilinear(velocity.movedim(-1, 1), place, "border").movedim(1, -1)

    place = lattice.points((40, 40), velocity).expand(len(velocity), -1, -1, -1)
    for _ in range(steps):
        place = place + at(place + at(place) / (2 * steps)) / steps
    return place


@pytest.mark.parametrize(("resolution", "error"), [(32, 0.017), (64, 0.0075)])
def test_the_flow_agrees_with_following_every_point(resolution: int, error: float) -> None:
    theta = velocities(4, 0.1)
    expected = runge_kutta(ThinPlateSpline(4).displacement(theta, (128, 128)))
    assert (expected - lattice.points((40, 40), expected)).norm(dim=-1).max() > 0.3
    errors = (Diffeomorphic(4, resolution)(theta, (40, 40)) - expected).norm(dim=-1)
    assert errors.max() < error
    assert errors.square().mean().sqrt() < error / 7


def test_errors_fall_as_the_lattice_grows_finer() -> None:
    theta, errors = velocities(4, 0.1), []
    for resolution in (8, 16, 32):
        grid = Diffeomorphic(4, resolution)(theta, (40, 40))
        errors.append(
            (grid - runge_kutta(ThinPlateSpline(4).displacement(theta, (96, 96))))
            .square()
            .mean()
            .sqrt()
            .item()
        )
    assert errors[0] > 2 * errors[1] > 4 * errors[2]


def test_the_map_is_the_same_whatever_the_output_size() -> None:
    family, theta = Diffeomorphic(), velocities(4, 0.1)
    torch.testing.assert_close(
        family(theta, (10, 10)), family(theta, (30, 30))[:, 1::3, 1::3], rtol=0, atol=1e-12
    )


@pytest.mark.parametrize("seed", range(5))
def test_it_does_not_fold_where_a_spline_of_the_same_numbers_does(seed: int) -> None:
    theta = velocities(4, 0.25, batch=16, seed=seed)
    assert determinant(ThinPlateSpline(4)(theta, (40, 40))).min() < -0.2
    assert determinant(Diffeomorphic(4)(theta, (40, 40))).min() > 0


def test_a_whirl_turns_the_middle_by_its_angle_and_folds_nowhere() -> None:
    at = lattice.points((32, 32), torch.empty(0).double())
    whirl = (
        torch.stack([-at[..., 1], at[..., 0]], -1)
        * 2
        * torch.exp(-4 * at.square().sum(-1, keepdim=True))
    )
    grid = diffeomorphic.grid(whirl[None], (40, 40))
    assert determinant(grid).min() > 0
    x, y = grid[0, 20, 20].tolist()  # the pixel below and right of the middle
    assert math.atan2(y, x) - math.pi / 4 == pytest.approx(
        2, abs=0.08
    )  # the lattice blunts the whirl's tip


def test_the_inverse_is_the_flow_of_the_opposite_velocity() -> None:
    family, theta = Diffeomorphic(), velocities(4, 0.1)
    there, back = family(theta, (40, 40)), family(family.inverse(theta), (40, 40))
    and_back = there + sampling.bilinear(
        (back - lattice.points((40, 40), back)).movedim(-1, 1), there, "border"
    ).movedim(1, -1)
    off = (and_back - lattice.points((40, 40), theta)).norm(dim=-1)
    assert (there - lattice.points((40, 40), theta)).norm(dim=-1).max() > 0.25
    assert off[:, 8:32, 8:32].max() < 0.012
    assert off[:, 8:32, 8:32].square().mean().sqrt() < 0.003


def test_an_image_warped_there_and_back_is_the_image() -> None:
    x, y = lattice.points((60, 60), torch.empty(0)).unbind(-1)
    original = torch.exp(-12 * ((x - 0.2).square() + y.square()))[None, None]
    family, theta = Diffeomorphic(), velocities(4, 0.1, batch=1).float()
    there = sampling.bilinear(original, family(theta, (60, 60)))
    assert (there - original).abs().max() > 0.3
    back = sampling.bilinear(there, family(family.inverse(theta), (60, 60)))
    torch.testing.assert_close(back, original, rtol=0, atol=0.05)


def test_at_the_identity_the_gradient_is_finite_and_that_of_a_displacement() -> None:
    weights = torch.rand(1, 20, 24, 2, dtype=torch.float64)
    gradients = []
    for family in (Diffeomorphic(4, 64), ThinPlateSpline(4)):
        theta = torch.zeros(1, 32, dtype=torch.float64, requires_grad=True)
        (family(theta, (20, 24)) * weights).sum().backward()
        assert theta.grad is not None
        gradients.append(theta.grad)
    assert torch.isfinite(gradients[0]).all()
    torch.testing.assert_close(
        gradients[0], gradients[1], rtol=0, atol=0.01 * gradients[1].abs().max().item()
    )


def test_gradients_and_their_gradients_pass_gradcheck() -> None:
    velocity = 0.3 * torch.randn(
        1, 3, 2, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(3)
    )
    velocity.requires_grad_()
    assert torch.autograd.gradcheck(lambda v: diffeomorphic.grid(v, (2, 3)), (velocity,))
    assert torch.autograd.gradgradcheck(lambda v: diffeomorphic.grid(v, (2, 3)), (velocity,))


@pytest.mark.parametrize("resolution", [1, 0])
def test_a_flow_without_a_lattice_is_refused_with_advice(resolution: int) -> None:
    with pytest.raises(ValueError, match="give a resolution of 8 or more"):
        Diffeomorphic(4, resolution)

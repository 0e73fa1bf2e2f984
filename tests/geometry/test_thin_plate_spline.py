import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.interpolate import RBFInterpolator
from torch import Tensor

from stn_lightning.geometry import lattice, sampling, thin_plate_spline

SCATTERED = torch.tensor(
    [[-0.9, -0.7], [0.8, -0.9], [0.1, 0.05], [-0.6, 0.9], [0.95, 0.7], [0.3, -0.4]],
    dtype=torch.float64,
)


def displacements(points: Tensor, batch: int = 1, size: float = 0.1, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return size * torch.randn(batch, 2 * len(points), dtype=torch.float64, generator=generator)


def grid(theta: Tensor, points: Tensor, size: tuple[int, int]) -> Tensor:
    return thin_plate_spline.grid(theta, thin_plate_spline.basis(points, size), size)


def test_convention_control_points_stand_in_reading_order_from_border_to_border() -> None:
    points = thin_plate_spline.control_points(3)
    assert points.tolist() == [
        [-1, -1],
        [0, -1],
        [1, -1],
        [-1, 0],
        [0, 0],
        [1, 0],
        [-1, 1],
        [0, 1],
        [1, 1],
    ]


def test_convention_a_control_point_looks_at_its_place_plus_its_displacement() -> None:
    points = torch.tensor(
        [[-0.5, -0.5], [0.5, -0.5], [-0.5, 0.5], [0.5, 0.5], [0.0, 0.0]]
    )  # pixels of a 2 x 2 lattice, and the middle
    theta = torch.zeros(1, 10)
    theta[0, 2], theta[0, 3] = 0.25, 0.125  # dx, dy of the second point
    expected = lattice.points((2, 2), theta)
    expected[0, 1] += torch.tensor([0.25, 0.125])
    torch.testing.assert_close(grid(theta, points, (2, 2))[0], expected, rtol=0, atol=1e-6)


def test_convention_displacements_to_the_right_move_the_content_left() -> None:
    image = torch.arange(1.0, 9.0).reshape(1, 1, 2, 4)
    theta = torch.tensor([[0.5, 0.0] * 16])
    moved = sampling.bilinear(image, grid(theta, thin_plate_spline.control_points(4), (2, 4)))
    assert moved[0, 0].tolist() == [[2, 3, 4, 0], [6, 7, 8, 0]]


# Not kornia: it sets its kernels at the moved points, which is another spline, and an ill-
# conditioned one.
@pytest.mark.parametrize(
    "points", [*[thin_plate_spline.control_points(k) for k in (2, 3, 4, 7)], SCATTERED], ids=len
)
def test_the_grid_agrees_with_scipy(points: Tensor) -> None:
    theta = displacements(points, batch=2)
    pixels = lattice.points((9, 14), points)
    for i in range(2):
        spline = RBFInterpolator(
            points, points + theta[i].reshape(-1, 2), kernel="thin_plate_spline", degree=1
        )
        expected = torch.from_numpy(spline(pixels.flatten(0, 1).numpy())).reshape(9, 14, 2)
        torch.testing.assert_close(grid(theta, points, (9, 14))[i], expected, rtol=0, atol=1e-9)


def test_the_spline_goes_through_its_control_points_however_far_they_move() -> None:
    # The pixels of a 4 x 4 image, given as control points, thrown far beyond the image.
    points = lattice.points((4, 4), SCATTERED).flatten(0, 1)
    theta = displacements(points, size=3.0)
    torch.testing.assert_close(
        grid(theta, points, (4, 4)).flatten(1), points.flatten() + theta, rtol=0, atol=1e-12
    )


@given(st.tuples(*[st.floats(-1, 1)] * 6))
def test_the_spline_reproduces_every_affine_map(numbers: tuple[float, ...]) -> None:
    points = thin_plate_spline.control_points(4)
    linear, shift = (
        torch.tensor(numbers[:4]).double().reshape(2, 2),
        torch.tensor(numbers[4:]).double(),
    )
    theta = (points @ linear.T + shift).reshape(1, -1)
    pixels = lattice.points((5, 6), points)
    torch.testing.assert_close(
        grid(theta, points, (5, 6))[0], pixels + pixels @ linear.T + shift, rtol=0, atol=1e-12
    )


@pytest.mark.parametrize("k", [2, 3, 4, 8, 16])
def test_moving_all_control_points_alike_moves_all_pixels_alike(k: int) -> None:
    basis = thin_plate_spline.basis(thin_plate_spline.control_points(k), (7, 5))
    torch.testing.assert_close(
        basis.sum(1), torch.ones(35, dtype=torch.float64), rtol=0, atol=1e-11
    )


@pytest.mark.parametrize(
    "points",
    [
        torch.tensor([[0.0, 0], [1, 0], [0, 1], [1, 0]]),
        torch.tensor([[-1.0, -1], [-0.2, -0.2], [0.3, 0.3], [1, 1]]),
        torch.tensor([[-1.0, 0.1], [0, 0.1], [1, 0.1]]),
        torch.tensor([[-1.0, -1], [1, 1]]),
        torch.tensor([[0.1, 0.7], [0.2, 0.4], [0.3, 0.1]]),  # in line but for rounding
        SCATTERED.repeat(2, 1),
    ],
    ids=["coincident", "diagonal", "horizontal", "two", "nearly in line", "all twice"],
)
def test_points_without_a_unique_spline_are_refused_with_advice(points: Tensor) -> None:
    with pytest.raises(
        ValueError,
        match=r"coincide or all lie on one line; give at least 3 distinct points",
    ):
        thin_plate_spline.basis(points, (4, 4))


@pytest.mark.parametrize("k", [1, 0, -1])
def test_a_lattice_without_area_is_refused_with_advice(k: int) -> None:
    with pytest.raises(ValueError, match="take 2 x 2 or more"):
        thin_plate_spline.control_points(k)


def test_the_bending_is_zero_at_a_control_point_and_negative_near_it() -> None:
    at = torch.tensor([[0.0, 0.0], [0.5, 0.0], [1.0, 0.0], [1.0, 1.0]], dtype=torch.float64)
    bending = thin_plate_spline._bending(at, at[:1])[:, 0]
    torch.testing.assert_close(
        bending, torch.tensor([0, 0.25 * math.log(0.25), 0, 2 * math.log(2)], dtype=torch.float64)
    )

import cv2
import kornia
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from stn_lightning.geometry import affine, lattice, projective, sampling

IDENTITY = [1.0, 0, 0, 0, 1, 0, 0, 0]
GENERIC = [0.8, -0.3, 0.1, 0.2, 1.1, -0.15, 0.25, -0.35]
SQUARE = [[-1.0, -1], [1, -1], [1, 1], [-1, 1]]


def theta_of(*numbers: float) -> Tensor:
    return torch.tensor([numbers], dtype=torch.float64)


def matrix(theta: Tensor) -> Tensor:
    return torch.cat([theta, torch.ones_like(theta[:, :1])], 1).unflatten(1, (3, 3))


def parameters(homography: Tensor) -> Tensor:
    return (homography / homography[:, 2:, 2:]).flatten(1)[:, :8]


regular = st.tuples(*[st.floats(-0.2, 0.2)] * 8).map(
    lambda noise: theta_of(*np.add(IDENTITY, noise))
)


def test_convention_corners_run_clockwise_from_the_top_left() -> None:
    corners = torch.tensor([[[-0.9, -0.8], [0.7, -0.6], [0.5, 0.4], [-0.3, 0.2]]])
    seen = kornia.geometry.linalg.transform_points(
        matrix(projective.from_corners(corners)), torch.tensor([SQUARE])
    )
    torch.testing.assert_close(seen, corners, rtol=0, atol=1e-6)


def test_convention_compose_is_warping_with_the_first_and_then_the_second() -> None:
    first, then = theta_of(*GENERIC), theta_of(1, 0, 0.3, 0, 1, 0.1, 0, 0.2)
    points = lattice.points((3, 5), first).flatten(0, 1)[None]
    transform = kornia.geometry.linalg.transform_points
    expected = transform(matrix(first), transform(matrix(then), points))
    actual = projective.grid(projective.compose(first, then), (3, 5)).flatten(1, 2)
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-9)


def test_the_grid_agrees_with_opencv() -> None:
    theta = theta_of(*GENERIC)
    points = lattice.points((6, 9), theta)
    expected = cv2.perspectiveTransform(points.numpy(), matrix(theta)[0].numpy())
    torch.testing.assert_close(
        projective.grid(theta, (6, 9))[0], torch.from_numpy(expected), rtol=0, atol=1e-12
    )


@pytest.mark.parametrize("padding", ["zeros", "border"])
def test_a_warp_agrees_with_kornia(padding: sampling.Padding) -> None:
    image, size = torch.rand(1, 2, 9, 14, dtype=torch.float64), (11, 6)
    theta = theta_of(*GENERIC)
    to_pixels = [
        torch.tensor([[w / 2, 0, (w - 1) / 2], [0, h / 2, (h - 1) / 2], [0, 0, 1]]).double()
        for h, w in (image.shape[2:], size)
    ]
    forth = torch.linalg.inv(to_pixels[0] @ matrix(theta) @ torch.linalg.inv(to_pixels[1]))
    expected = kornia.geometry.transform.warp_perspective(
        image, forth, size, padding_mode=str(padding), align_corners=True
    )
    actual = sampling.bilinear(image, projective.grid(theta, size), padding)
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-6)


def test_an_affine_map_is_a_projective_one() -> None:
    theta = theta_of(0.7, -0.4, 0.13, 0.35, 0.9, -0.21)
    assert torch.equal(
        projective.grid(projective.from_affine(theta), (4, 7)), affine.grid(theta, (4, 7))
    )


@given(st.tuples(*[st.floats(-0.4, 0.4)] * 8))
def test_from_corners_agrees_with_opencv(noise: tuple[float, ...]) -> None:
    square = np.array(SQUARE, dtype=np.float32)
    corners = square + np.array(noise, dtype=np.float32).reshape(4, 2)
    expected = cv2.getPerspectiveTransform(square, corners)
    actual = projective.from_corners(torch.from_numpy(corners).double()[None])
    np.testing.assert_allclose(matrix(actual)[0].numpy(), expected, rtol=0, atol=1e-9)


@given(regular, regular)
def test_compose_is_the_product_of_matrices(first: Tensor, then: Tensor) -> None:
    torch.testing.assert_close(
        projective.compose(first, then),
        parameters(matrix(first) @ matrix(then)),
        rtol=1e-12,
        atol=1e-12,
    )


@given(regular)
def test_inverse_is_the_inverse_matrix(theta: Tensor) -> None:
    torch.testing.assert_close(
        projective.inverse(theta),
        parameters(torch.linalg.inv(matrix(theta))),
        rtol=1e-10,
        atol=1e-10,
    )


def test_beyond_the_horizon_the_grid_is_far_away_but_finite() -> None:
    theta = theta_of(1, 0, 0, 0, 1, 0, -2, 0)  # w = 1 - 2 x: 0 at x = 0.5, negative right of it
    grid = projective.grid(theta, (1, 8))[0, 0]
    assert torch.isfinite(grid).all()
    ahead = lattice.axis(8, theta) < 0.5
    torch.testing.assert_close(
        grid[ahead, 0], (lattice.axis(8, theta) / (1 - 2 * lattice.axis(8, theta)))[ahead]
    )
    assert (
        grid[~ahead, 0] > 100
    ).all()  # not mirrored to the other side, as a division by a negative w would do


large = st.tuples(*[st.floats(-1e6, 1e6, width=32)] * 8)


@given(large)
def test_every_homography_gives_finite_pixels_and_gradients(numbers: tuple[float, ...]) -> None:
    theta = torch.tensor([numbers], requires_grad=True)
    image = torch.rand(1, 1, 5, 7, requires_grad=True)
    originals = [
        sampling.bilinear(image, projective.grid(theta, (4, 3)), padding)
        for padding in ("zeros", "border", "reflection")
    ]
    torch.stack(originals).sum().backward()
    assert theta.grad is not None
    assert image.grad is not None
    for values in (*originals, theta.grad, image.grad):
        assert torch.isfinite(values).all()


@given(large, large)
def test_compose_is_finite_wherever_the_centre_looks(
    first: tuple[float, ...], then: tuple[float, ...]
) -> None:
    assert torch.isfinite(projective.compose(theta_of(*first), theta_of(*then))).all()


def test_compose_and_inverse_are_finite_where_the_centre_looks_at_the_horizon() -> None:
    horizon = theta_of(
        0, 1, 0.5, 0, 0, 1, 1, 0
    )  # a regular matrix whose inverse ends in h1 h5 - h2 h4 = 0
    assert torch.linalg.det(matrix(horizon)).abs() > 0.9
    assert torch.isfinite(projective.inverse(horizon)).all()
    assert projective.inverse(horizon).abs().max() > 100
    nowhere = projective.compose(
        theta_of(1, 0, 0, 0, 1, 0, -1, 0), theta_of(1, 0, 1, 0, 1, 0, 0, 0)
    )  # w = 1 - 1 at the centre
    assert torch.isfinite(nowhere).all()
    assert nowhere.abs().max() > 100

import kornia
import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from stn_lightning.geometry import lattice, sampling, volume

IDENTITY = [1.0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0]
GENERIC = [0.8, -0.3, 0.2, 0.1, 0.15, 1.1, -0.25, -0.2, 0.05, 0.3, 0.9, 0.12]


def theta_of(*numbers: float) -> Tensor:
    return torch.tensor([numbers], dtype=torch.float64)


def matrix(theta: Tensor) -> Tensor:
    return torch.cat(
        [theta.unflatten(1, (3, 4)), theta.new_tensor([[[0, 0, 0, 1]]]).expand(len(theta), -1, -1)],
        1,
    )


def warped(content: Tensor, theta: Tensor) -> Tensor:
    depth, height, width = content.shape[2:]
    return sampling.trilinear(content, volume.grid(theta, (depth, height, width)))


regular = st.tuples(*[st.floats(-0.2, 0.2)] * 12).map(
    lambda noise: theta_of(*np.add(IDENTITY, noise))
)


def test_convention_a_shift_moves_the_content_left_up_and_to_the_front() -> None:
    content = torch.rand(1, 1, 4, 4, 4)
    for number, dim in (
        (3, 4),
        (7, 3),
        (11, 2),
    ):  # t_x along the width, t_y the height, t_z the depth
        theta = torch.tensor([IDENTITY])
        theta[0, number] = 0.5  # one voxel of four
        expected = content.roll(-1, dim)
        expected.select(dim, 3).zero_()
        assert torch.equal(warped(content, theta), expected)


def test_convention_z_runs_along_the_depth() -> None:
    grid = volume.grid(torch.tensor([IDENTITY]), (2, 4, 8))
    assert grid.shape == (1, 2, 4, 8, 3)
    assert grid[0, 1, 0, 7].tolist() == [0.875, -0.75, 0.5]


def test_convention_rows_of_theta_are_x_y_z() -> None:
    flip_depth = theta_of(1, 0, 0, 0, 0, 1, 0, 0, 0, 0, -1, 0)
    content = torch.rand(1, 2, 3, 4, 5, dtype=torch.float64)
    assert torch.equal(warped(content, flip_depth), content.flip(2))


def test_convention_compose_is_warping_with_the_first_and_then_the_second() -> None:
    content = torch.rand(1, 1, 6, 6, 6)
    shift = torch.tensor([[1.0, 0, 0, 1 / 3, 0, 1, 0, 0, 0, 0, 1, 2 / 3]])
    turn = torch.tensor([[0.0, -1, 0, 0, 1, 0, 0, 0, 0, 0, 1, 0]])
    in_a_row = warped(warped(content, shift), turn)
    assert torch.equal(warped(content, volume.compose(shift, turn)), in_a_row)
    assert not torch.equal(warped(content, volume.compose(turn, shift)), in_a_row)


def test_the_grid_agrees_with_kornia() -> None:
    theta = theta_of(*GENERIC)
    points = lattice.points((3, 4, 5), theta).flatten(0, 2)[None]
    expected = kornia.geometry.linalg.transform_points(matrix(theta), points)
    torch.testing.assert_close(
        volume.grid(theta, (3, 4, 5)).flatten(1, 3), expected, rtol=0, atol=1e-7
    )


@given(regular, regular)
def test_compose_is_the_product_of_matrices(first: Tensor, then: Tensor) -> None:
    expected = (matrix(first) @ matrix(then))[:, :3].flatten(1)
    torch.testing.assert_close(volume.compose(first, then), expected, rtol=0, atol=1e-14)


@given(regular)
def test_inverse_is_the_inverse_matrix(theta: Tensor) -> None:
    expected = torch.linalg.inv(matrix(theta))[:, :3].flatten(1)
    torch.testing.assert_close(volume.inverse(theta), expected, rtol=1e-12, atol=1e-12)

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from kornia.geometry.transform import warp_affine
from torch import Tensor

from stn_lightning.geometry import affine, lattice, sampling

IDENTITY = [1.0, 0, 0, 0, 1, 0]
GENERIC = [0.7, -0.4, 0.13, 0.35, 0.9, -0.21]


def theta_of(*numbers: float, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.tensor([numbers], dtype=dtype)


def matrix(theta: Tensor) -> Tensor:
    """(B, 3, 3), from the paper's equation 1."""
    return torch.cat(
        [theta.unflatten(1, (2, 3)), theta.new_tensor([[[0, 0, 1]]]).expand(len(theta), -1, -1)], 1
    )


def warped(image: Tensor, theta: Tensor) -> Tensor:
    return sampling.bilinear(image, affine.grid(theta, (image.shape[2], image.shape[3])))


regular = st.tuples(*[st.floats(-0.3, 0.3)] * 6).map(
    lambda noise: theta_of(*np.add(IDENTITY, noise))
)


def test_convention_positive_t_x_moves_the_content_left() -> None:
    image = torch.arange(1.0, 9.0).reshape(1, 1, 2, 4)
    moved = warped(
        image, torch.tensor([[1.0, 0, 0.5, 0, 1, 0]])
    )  # by half of half the width: one pixel of four
    assert moved[0, 0].tolist() == [[2, 3, 4, 0], [6, 7, 8, 0]]


def test_convention_positive_t_y_moves_the_content_up() -> None:
    image = torch.arange(1.0, 9.0).reshape(1, 1, 4, 2)
    moved = warped(image, torch.tensor([[1.0, 0, 0, 0, 1, 0.5]]))
    assert moved[0, 0].tolist() == [[3, 4], [5, 6], [7, 8], [0, 0]]


def test_convention_a_scale_below_one_looks_at_a_part_and_enlarges_it() -> None:
    grid = affine.grid(affine.from_attention(torch.tensor([[0.5, 0.25, -0.25]])), (2, 2))
    assert grid[0].tolist() == [[[0.0, -0.5], [0.5, -0.5]], [[0.0, 0.0], [0.5, 0.0]]]


def test_convention_a_similarity_of_a_positive_angle_turns_the_content_counterclockwise() -> None:
    image = torch.rand(1, 1, 7, 7)
    quarter = affine.from_similarity(
        torch.tensor([[math.cos(math.pi / 2), math.sin(math.pi / 2), 0, 0]])
    )
    assert torch.equal(
        warped(image, quarter), torch.rot90(image, 1, (2, 3))
    )  # torch.rot90 turns from the 1st dim towards the 2nd


def test_convention_compose_is_warping_with_the_first_and_then_the_second() -> None:
    image = torch.rand(1, 1, 6, 6)
    shift = torch.tensor([[1.0, 0, 2 / 3, 0, 1, 0]])  # by two whole pixels
    turn = torch.tensor([[0.0, -1, 0, 1, 0, 0]])
    in_a_row = warped(warped(image, shift), turn)
    assert torch.equal(warped(image, affine.compose(shift, turn)), in_a_row)
    assert not torch.equal(warped(image, affine.compose(turn, shift)), in_a_row)


def test_the_grid_is_the_matrix_product_of_equation_1() -> None:
    theta = theta_of(*GENERIC)
    points = lattice.points((4, 7), theta)
    homogeneous = torch.cat([points, torch.ones_like(points[..., :1])], -1)
    expected = torch.einsum("bij,hwj->bhwi", theta.unflatten(1, (2, 3)), homogeneous)
    torch.testing.assert_close(affine.grid(theta, (4, 7)), expected, rtol=0, atol=1e-14)


@pytest.mark.parametrize("padding", ["zeros", "border", "reflection"])
def test_a_warp_agrees_with_kornia(padding: sampling.Padding) -> None:
    image, size = torch.rand(2, 3, 9, 14, dtype=torch.float64), (11, 6)
    theta = torch.cat([theta_of(*GENERIC), theta_of(-0.5, 0.8, 0.4, 0.6, 1.2, 0.1)])
    # kornia takes the map from input to output in pixels whose centres are whole numbers, which is
    # what corner alignment means to it
    to_pixels = [
        torch.tensor([[w / 2, 0, (w - 1) / 2], [0, h / 2, (h - 1) / 2], [0, 0, 1]]).double()
        for h, w in (image.shape[2:], size)
    ]
    forth = torch.linalg.inv(to_pixels[0] @ matrix(theta) @ torch.linalg.inv(to_pixels[1]))
    if (
        padding == "reflection"
    ):  # kornia reflects at the outermost centres here; what is inside must agree all the same
        inside = (affine.grid(theta, size).abs() < 1 - 1 / 9).all(-1)[:, None]
    else:
        inside = torch.ones(2, 1, *size, dtype=torch.bool)
    expected = warp_affine(image, forth[:, :2], size, padding_mode=str(padding), align_corners=True)
    actual = sampling.bilinear(image, affine.grid(theta, size), padding)
    assert inside.sum() > 20
    torch.testing.assert_close(actual * inside, expected * inside, rtol=0, atol=1e-9)


@given(regular, regular)
def test_compose_is_the_product_of_matrices(first: Tensor, then: Tensor) -> None:
    expected = (matrix(first) @ matrix(then))[:, :2].flatten(1)
    torch.testing.assert_close(affine.compose(first, then), expected, rtol=0, atol=1e-14)


@given(regular)
def test_inverse_is_the_inverse_matrix(theta: Tensor) -> None:
    expected = torch.linalg.inv(matrix(theta))[:, :2].flatten(1)
    torch.testing.assert_close(affine.inverse(theta), expected, rtol=0, atol=1e-12)


def test_translation_attention_and_similarity_are_affine_maps() -> None:
    assert affine.from_translation(theta_of(0.1, 0.2), 0.5).tolist() == [[0.5, 0, 0.1, 0, 0.5, 0.2]]
    assert affine.from_attention(theta_of(0.5, 0.1, 0.2)).tolist() == [[0.5, 0, 0.1, 0, 0.5, 0.2]]
    assert affine.from_similarity(theta_of(0.6, 0.8, 0.1, 0.2)).tolist() == [
        [0.6, -0.8, 0.1, 0.8, 0.6, 0.2]
    ]


def test_attention_and_similarity_come_back_from_affine_maps() -> None:
    attention, similarity = theta_of(0.5, 0.1, 0.2), theta_of(0.6, 0.8, 0.1, 0.2)
    assert torch.equal(affine.to_attention(affine.from_attention(attention)), attention)
    assert torch.equal(affine.to_similarity(affine.from_similarity(similarity)), similarity)


def test_each_image_of_a_batch_has_its_own_theta() -> None:
    thetas = torch.cat([theta_of(*GENERIC), theta_of(*IDENTITY)])
    both = affine.grid(thetas, (3, 4))
    for i in range(2):
        assert torch.equal(both[i : i + 1], affine.grid(thetas[i : i + 1], (3, 4)))


def test_half_precision_parameters_give_a_float32_grid() -> None:
    theta = theta_of(*GENERIC, dtype=torch.bfloat16)
    assert affine.grid(theta, (3, 4)).dtype == torch.float32
    assert torch.equal(affine.grid(theta, (3, 4)), affine.grid(theta.float(), (3, 4)))

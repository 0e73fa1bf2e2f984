import pytest
import torch
from torch import Tensor

from stn_lightning.geometry import affine, lattice, thin_plate_spline
from stn_lightning.geometry.overlap import (
    contains_lattice,
    contains_points,
    intersection_over_union,
    outline,
    overlap_penalty,
)


def crops(*thetas: list[float]) -> Tensor:
    """Grids (1, n, 64, 64, 2) of attention: s, t_x, t_y."""
    return affine.grid(affine.from_attention(torch.tensor(thetas)), (64, 64))[None]


def test_a_crop_shows_what_lies_in_its_rectangle() -> None:
    points = 2 * torch.rand(1, 500, 2) - 1
    found = contains_points(crops([0.4, 0.3, -0.2])[0], points)
    inside = ((points - torch.tensor([0.3, -0.2])).abs() < 0.4 * 63 / 64).all(-1)
    assert torch.equal(found, inside)
    assert 20 < found.sum() < 200


def test_a_turned_crop_shows_what_its_inverse_takes_into_the_frame() -> None:
    theta = torch.tensor([[0.5, -0.3, 0.1, 0.2, 0.4, -0.1]])
    points = 2 * torch.rand(1, 500, 2) - 1
    a, b, tx, c, d, ty = affine.inverse(theta)[0]
    x, y = points.unbind(-1)
    back = torch.stack([a * x + b * y + tx, c * x + d * y + ty], -1)
    assert torch.equal(
        contains_points(affine.grid(theta, (200, 200)), points), (back.abs() < 199 / 200).all(-1)
    )


def test_a_bent_crop_shows_what_lies_in_its_bent_outline() -> None:
    """The middle of the upper side is pulled down to the centre, so that what was above it is cut
    off.
    """
    points, basis = thin_plate_spline.control_points(3), None
    basis = thin_plate_spline.basis(points, (64, 64))
    theta = torch.zeros(1, 18)
    theta[0, 3] = 1.0  # y of the second point
    grid = thin_plate_spline.grid(theta, basis, (64, 64))
    assert contains_points(
        grid, torch.tensor([[[0.0, 0.5], [0.0, -0.5], [-0.95, -0.5]]])
    ).tolist() == [[True, False, True]]


def test_a_lattice_is_contained_as_its_points_are() -> None:
    basis = thin_plate_spline.basis(thin_plate_spline.control_points(3), (64, 64))
    bent = thin_plate_spline.grid(0.4 * torch.randn(20, 18), basis, (64, 64))
    turned = affine.grid(torch.randn(20, 6), (7, 9))
    level = affine.grid(affine.from_attention(torch.tensor([[0.5, 0.0, 0.0]])), (8, 8))
    for grid in (bent, turned, level, turned[:0]):
        points = lattice.points((24, 24), grid).flatten(0, 1).expand(len(grid), -1, -1)
        found = contains_lattice(grid, 24)
        assert torch.equal(found.flatten(1), contains_points(grid, points))
        assert found.shape == (len(grid), 24, 24)
    assert 1000 < contains_lattice(bent, 24).sum() < 20 * 24 * 24 - 1000


def test_the_outline_goes_round_once() -> None:
    line = outline(crops([1.0, 0.0, 0.0])[0, :, ::21, ::21])[0]
    assert len(line) == len(line.unique(dim=0)) == 12
    assert line[0].tolist() == line.amin(0).tolist()


def test_intersection_over_union_is_that_of_rectangles() -> None:
    found = intersection_over_union(
        crops([0.5, -0.5, 0.0], [0.5, 0.0, 0.0], [0.5, 0.5, 0.0]), cells=64
    )[0]
    expected = torch.tensor([[1, 1 / 3, 0], [1 / 3, 1, 1 / 3], [0, 1 / 3, 1]])
    torch.testing.assert_close(found, expected, rtol=0, atol=0.03)


@pytest.mark.parametrize(("gap", "expected"), [(0.0, 1.0), (0.5, 0.5), (1.0, 0.0), (3.0, 0.0)])
def test_what_crops_share_is_the_overlap_of_their_boxes(gap: float, expected: float) -> None:
    found = overlap_penalty(crops([0.5, 0.0, 0.0], [0.5, gap, 0.0]))
    assert found.item() == pytest.approx(expected, abs=0.01)


def test_one_crop_shares_nothing() -> None:
    assert overlap_penalty(crops([0.5, 0.2, 0.0])).item() == 0


def test_the_gradient_pushes_overlapping_crops_apart_and_leaves_their_sizes_alone() -> None:
    theta = torch.tensor([[0.5, -0.1, 0.0], [0.5, 0.1, 0.05]], requires_grad=True)
    overlap_penalty(affine.grid(affine.from_attention(theta), (8, 8))[None]).sum().backward()
    assert theta.grad is not None
    assert theta.grad[0, 1] > 0 > theta.grad[1, 1]  # descending moves the left one to the left
    assert theta.grad[:, 0].abs().max() < 1e-6


def test_gradients_of_what_crops_share_pass_gradcheck() -> None:
    def loss(theta: Tensor) -> Tensor:
        grid = affine.grid(affine.from_translation(theta, 0.5), (4, 4))
        return overlap_penalty(grid[None])

    theta = torch.tensor(
        [[-0.21, 0.03], [0.17, -0.11], [0.4, 0.2]], dtype=torch.float64, requires_grad=True
    )
    assert torch.autograd.gradcheck(loss, theta)

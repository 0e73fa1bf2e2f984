import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from stn_lightning.geometry import (
    affine,
    lattice,
    measures,
    projective,
    sampling,
    thin_plate_spline,
    volume,
)

IDENTITY = [1.0, 0, 0, 0, 1, 0]


def grid_of(*theta: list[float], size: tuple[int, int] = (20, 24)) -> Tensor:
    return affine.grid(torch.tensor(theta, dtype=torch.float64), size)


def crop(scale: float, x: float, y: float) -> Tensor:
    return grid_of([scale, 0, x, 0, scale, y])


# How much lies outside


@pytest.mark.parametrize(
    ("theta", "part"),
    [
        (IDENTITY, 0),
        ([1.0, 0, 1, 0, 1, 0], 0.5),
        ([1.0, 0, 1, 0, 1, 1], 0.75),
        ([2.0, 0, 0, 0, 2, 0], 0.75),
    ],
)
def test_outside_is_the_part_that_lies_outside(theta: list[float], part: float) -> None:
    assert measures.fraction_out_of_bounds(grid_of(theta)).item() == part


def test_outside_counts_what_reads_padding_in_a_volume() -> None:
    theta = torch.tensor([[1.0, 0, 0, 0.6, 0, 1, 0, 0, 0, 0, 1, -0.5]])
    grid = volume.grid(theta, (4, 6, 8))
    read = sampling.trilinear(torch.ones(1, 1, 40, 40, 40), grid)
    assert measures.fraction_out_of_bounds(grid).item() == (read == 0).float().mean().item() > 0


# The penalty


def beyond(d: float) -> float:
    return 0 if d <= 0 else d * d / 2 if d <= 1 else d - 0.5


def excess_point_by_point(grid: Tensor) -> float:
    """By its definition, in Python."""
    total = 0.0
    for axis in range(grid.shape[-1]):
        values = grid[..., axis].flatten().tolist()
        middle = (min(values) + max(values)) / 2
        total += sum(
            beyond(abs(value) - 1) + beyond(abs(value - middle) - 1) for value in values
        ) / len(values)
    return total


@given(st.lists(st.floats(-3, 3), min_size=6, max_size=6))
def test_excess_agrees_with_its_definition(theta: list[float]) -> None:
    grid = grid_of(theta, size=(5, 4))
    assert measures.out_of_bounds_penalty(grid).item() == pytest.approx(
        excess_point_by_point(grid), abs=1e-9
    )


@given(st.floats(0.05, 1), st.floats(-1, 1), st.floats(-1, 1))
def test_inside_excess_is_exactly_zero_and_so_is_its_gradient(
    scale: float, x: float, y: float
) -> None:
    theta = torch.tensor([[scale, 0, x * (1 - scale), 0, scale, y * (1 - scale)]]).requires_grad_()
    value = measures.out_of_bounds_penalty(affine.grid(theta, (9, 9)))
    (gradient,) = torch.autograd.grad(value.sum(), theta)
    assert value.item() == 0
    assert not gradient.any()


def test_outside_where_sampling_has_no_gradient_excess_has_one_that_points_back() -> None:
    theta = torch.tensor([[0.5, 0, 2.5, 0, 0.5, -4.0]]).requires_grad_()
    grid = affine.grid(theta, (9, 9))
    image = torch.rand(1, 1, 16, 16)
    (of_sampling,) = torch.autograd.grad(
        sampling.bilinear(image, grid).sum(), theta, retain_graph=True
    )
    (of_excess,) = torch.autograd.grad(measures.out_of_bounds_penalty(grid).sum(), theta)
    assert not of_sampling.any()
    torch.testing.assert_close(
        of_excess, torch.tensor([[0.0, 0, 1, 0, 0, -1]])
    )  # the shape is left alone


def test_a_crop_that_is_too_large_is_shrunk_and_stays_in_the_middle() -> None:
    theta = torch.tensor([[4.0, 0, 0, 0, 4.0, 0]]).requires_grad_()
    (gradient,) = torch.autograd.grad(
        measures.out_of_bounds_penalty(affine.grid(theta, (9, 9))).sum(), theta
    )
    assert gradient[0, 0] == gradient[0, 4] > 0.3
    assert gradient[0, [1, 2, 3, 5]].abs().max() < 1e-6


def test_gradients_of_both_parts_of_excess_are_the_slopes_of_their_values() -> None:
    """The first part as the crop moves with its shape held, the second as its shape changes with
    its place held.
    """
    theta = torch.tensor([[1.3, 0.21, 0.63, -0.14, 1.17, -1.11]], dtype=torch.float64)

    def moved(t: Tensor) -> Tensor:
        return measures.out_of_bounds_penalty(affine.grid(theta, (5, 6)) + t)

    def oversize(shape: Tensor) -> Tensor:
        grid = affine.grid(shape, (5, 6))
        return (
            measures.out_of_bounds_penalty(
                grid - (grid.amax((1, 2), keepdim=True) + grid.amin((1, 2), keepdim=True)) / 2
            )
            / 2
        )

    assert torch.autograd.gradcheck(moved, torch.zeros(2, dtype=torch.float64, requires_grad=True))
    whole = theta.clone().requires_grad_()
    (found,) = torch.autograd.grad(
        measures.out_of_bounds_penalty(affine.grid(whole, (5, 6))).sum(), whole
    )
    for i in range(6):
        step = torch.zeros_like(theta)
        step[0, i] = 1e-6
        slope = (oversize(theta + step) - oversize(theta - step)).item() / 2e-6
        if i in (2, 5):
            t = step[0, [2, 5]]
            slope += (moved(t) - moved(-t)).item() / 2e-6
        assert found[0, i].item() == pytest.approx(slope, abs=1e-7)


def test_excess_pulls_no_point_harder_than_1_and_is_finite_any_of_each() -> None:
    theta = torch.tensor([[1.0, 0, 1e20, 0, 1, -1e20], [1e20, 0, 0, 0, 1e20, 0]]).requires_grad_()
    value = measures.out_of_bounds_penalty(affine.grid(theta, (9, 9)))
    (gradient,) = torch.autograd.grad(value.sum(), theta)
    assert value.isfinite().all()
    torch.testing.assert_close(gradient[0, [2, 5]], torch.tensor([1.0, -1.0]))
    assert gradient.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_excess_is_float32_under_autocast(dtype: torch.dtype) -> None:
    grid = crop(0.5, 2.3, 0.1).float()
    with torch.autocast("cpu", dtype):
        under = measures.out_of_bounds_penalty(grid)
    assert under.dtype == torch.float32
    assert torch.equal(under, measures.out_of_bounds_penalty(grid))


# Scales and lengths


@given(
    st.floats(-math.pi, math.pi), st.floats(0.1, 3), st.floats(0.1, 3), st.floats(-math.pi, math.pi)
)
def test_scales_are_the_singular_values_of_the_map_between_pixels(
    angle: float, first: float, second: float, other: float
) -> None:
    """Made of a turn, two scales and a turn of PIXELS, in an image that is not square, read into an
    output of another size.
    """
    turn, back = (
        np.array([[math.cos(a), -math.sin(a)], [math.sin(a), math.cos(a)]]) for a in (angle, other)
    )
    pixels = turn @ np.diag([first, second]) @ back
    half = np.diag([30 / 2, 42 / 2])  # x, y
    a = np.linalg.inv(half) @ pixels @ half
    grid = grid_of([a[0, 0], a[0, 1], 0.2, a[1, 0], a[1, 1], -0.3], size=(17, 28))
    expected = torch.tensor(sorted([first, second], reverse=True), dtype=torch.float64)
    torch.testing.assert_close(
        measures.scales(grid, (42, 30))[0], expected.expand(16, 2), rtol=1e-6, atol=1e-9
    )


def test_scales_of_a_volume_are_those_along_its_axes() -> None:
    grid = volume.grid(torch.tensor([[0.5, 0, 0, 0, 0, 0, 0.25, 0, 0, 2.0, 0, 0.1]]), (6, 7, 8))
    torch.testing.assert_close(
        measures.scales(grid, (9, 9, 9))[0],
        torch.tensor([2.0, 0.5, 0.25]).expand(64, 3),
        rtol=1e-5,
        atol=1e-5,
    )


def test_scales_of_a_bent_grid_agree_with_autograd_in_the_middle_of_the_mesh() -> None:
    theta = torch.tensor([[1.1, 0.1, 0.0, -0.2, 0.9, 0.1, 0.15, -0.1]], dtype=torch.float64)
    grid = projective.grid(theta, (200, 200))
    found = measures.scales(grid, (60, 60)).unflatten(1, (4, 4))[0, 1:3, 1:3]

    def mapped(point: Tensor) -> Tensor:
        h = theta[0]
        w = h[6] * point[0] + h[7] * point[1] + 1
        return (
            torch.stack(
                [h[0] * point[0] + h[1] * point[1] + h[2], h[3] * point[0] + h[4] * point[1] + h[5]]
            )
            / w
        )

    for i, y in enumerate((-0.25, 0.25)):
        for j, x in enumerate((-0.25, 0.25)):
            jacobian = torch.autograd.functional.jacobian(
                mapped, torch.tensor([x, y], dtype=torch.float64)
            )
            torch.testing.assert_close(
                found[i, j], torch.linalg.svdvals(jacobian), rtol=0.01, atol=0
            )


def test_a_grid_of_one_pixel_has_no_scale() -> None:
    with pytest.raises(
        ValueError,
        match=r"a grid of size \(1, 5\) has no slope; scales need 2 pixels or more along each axis",
    ):
        measures.scales(grid_of(IDENTITY, size=(1, 5)), (28, 28))


@pytest.mark.parametrize("size", [(28, 28), (42, 30), (7, 5)], ids=str)
def test_the_identity_has_scale_1_and_moves_nothing_whatever_the_size_of_the_output(
    size: tuple[int, int],
) -> None:
    grid = grid_of(IDENTITY, size=size)
    torch.testing.assert_close(
        measures.scales(grid, (42, 30)), torch.ones(1, 16, 2, dtype=torch.float64)
    )
    assert measures.displacement(grid, (42, 30)).item() == pytest.approx(0, abs=1e-12)


def test_displacement_is_in_pixels_of_the_input() -> None:
    shifts = grid_of([1.0, 0, 2 * 3 / 30, 0, 1, 2 * 4 / 42])  # 3 pixels right, 4 down
    assert measures.displacement(shifts, (42, 30)).item() == pytest.approx(5)
    bent = thin_plate_spline.grid(
        torch.full((1, 32), 0.1, dtype=torch.float64),
        thin_plate_spline.basis(thin_plate_spline.control_points(4), (9, 9)),
        (9, 9),
    )
    assert measures.displacement(bent, (20, 20)).item() == pytest.approx(math.sqrt(2), rel=1e-5)


def test_spread_is_the_standard_deviation_of_a_point_over_the_batch() -> None:
    shifts = torch.tensor(
        [[1.0, 0, x, 0, 1, y] for x, y in ((0.1, 0), (-0.1, 0.2), (0.3, -0.4))], dtype=torch.float64
    )
    pixels = shifts[:, [2, 5]].numpy() * np.array([15, 21])
    expected = math.sqrt(pixels.var(0).sum())
    assert measures.spread(affine.grid(shifts, (6, 7)), (42, 30)).item() == pytest.approx(expected)
    assert (
        measures.spread(grid_of([0.5, 0, 0.7, 0, 0.3, 0]).expand(4, -1, -1, -1), (42, 30)).item()
        == 0
    )


def test_measures_of_a_lattice_take_no_notice_of_half_precision() -> None:
    grid = lattice.points((12, 12), torch.zeros(1))[None].bfloat16()
    for measured in (
        measures.fraction_out_of_bounds(grid),
        measures.out_of_bounds_penalty(grid),
        measures.displacement(grid, (12, 12)),
        measures.scales(grid, (12, 12)),
    ):
        assert measured.dtype == torch.float32


def test_a_crop_is_mirrored_by_one_negative_scale_and_not_by_a_turn() -> None:
    mirrored = [[-0.5, 0, 0.2, 0, 0.7, 0], [0.0, 1, 0, 1, 0, 0]]
    upright = [IDENTITY, [-1.0, 0, 0, 0, -1, 0], [0.0, -1, 0, 1, 0, 0.3]]
    assert measures.is_mirrored(grid_of(*mirrored)).all()
    assert not measures.is_mirrored(grid_of(*upright)).any()
    assert not measures.is_mirrored(grid_of(*mirrored, size=(1, 5))).any()


@pytest.mark.parametrize("axis", range(3))
def test_a_volume_is_mirrored_by_one_negative_scale(axis: int) -> None:
    scales = torch.ones(3)
    scales[axis] = -1
    theta = torch.cat([torch.diag(scales), torch.zeros(3, 1)], 1).flatten()[None]
    assert measures.is_mirrored(volume.grid(theta, (3, 4, 5))).item()
    assert not measures.is_mirrored(volume.grid(-theta, (3, 4, 5))).item()


def test_the_scale_of_a_grid_that_is_not_finite_is_not_a_number() -> None:
    grid = affine.grid(torch.tensor([[0.5, 0, 0, 0, 0.5, 0]]).repeat(2, 1), (8, 8))
    expected = measures.scales(grid, (16, 16))
    grid[1, 3, 3, 0] = math.nan
    found = measures.scales(grid, (16, 16))
    torch.testing.assert_close(found[0], expected[0])
    assert found[1].isnan().any()

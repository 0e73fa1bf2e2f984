import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from stn_lightning.geometry import lattice

FLOAT32 = torch.empty(0)
FLOAT64 = torch.empty(0, dtype=torch.float64)


def test_convention_plus_minus_one_is_the_border_not_the_outermost_pixel_centre() -> None:
    assert lattice.axis(4, FLOAT32).tolist() == [-0.75, -0.25, 0.25, 0.75]
    assert lattice.axis(1, FLOAT32).tolist() == [0.0]
    border = torch.tensor([[-1.0, -1.0], [1.0, 1.0]])
    assert lattice.to_pixels(border, (4, 10)).tolist() == [[-0.5, -0.5], [9.5, 3.5]]


def test_convention_points_are_x_y_and_sizes_are_height_width() -> None:
    points = lattice.points((2, 4), FLOAT32)
    assert points.shape == (2, 4, 2)
    assert points[0, 3].tolist() == [0.75, -0.5]  # the upper right pixel: x to the right, y down


def test_convention_points_of_a_volume_are_x_y_z_and_sizes_are_depth_height_width() -> None:
    points = lattice.points((2, 4, 8), FLOAT32)
    assert points.shape == (2, 4, 8, 3)
    assert points[1, 0, 7].tolist() == [0.875, -0.75, 0.5]


def test_pixel_indices_and_points_name_the_same_places() -> None:
    points = lattice.points((3, 5), FLOAT64)
    indices = torch.stack(torch.meshgrid(torch.arange(3), torch.arange(5), indexing="ij")[::-1], -1)
    torch.testing.assert_close(
        lattice.to_pixels(points, (3, 5)), indices.double(), rtol=0, atol=1e-14
    )
    torch.testing.assert_close(
        lattice.from_pixels(indices.double(), (3, 5)), points, rtol=0, atol=1e-15
    )


@given(st.lists(st.floats(-10, 10), min_size=3, max_size=3), st.tuples(*[st.integers(1, 500)] * 3))
def test_from_pixels_is_the_inverse_of_to_pixels(
    point: list[float], size: tuple[int, int, int]
) -> None:
    where = torch.tensor(point, dtype=torch.float64)
    torch.testing.assert_close(
        lattice.from_pixels(lattice.to_pixels(where, size), size), where, rtol=0, atol=1e-12
    )


@pytest.mark.parametrize("n", [3, 28, 42, 60, 449, 5000])
def test_an_axis_is_symmetric_and_as_exact_as_its_precision(n: int) -> None:
    axis = lattice.axis(n, FLOAT32)
    assert torch.equal(axis, -axis.flip(0))
    assert torch.equal(axis, lattice.axis(n, FLOAT64).float())


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        (torch.float16, torch.float32),
        (torch.bfloat16, torch.float32),
        (torch.float32, torch.float32),
        (torch.float64, torch.float64),
    ],
)
def test_half_precision_becomes_float32_and_more_precision_stays(
    given: torch.dtype, kept: torch.dtype
) -> None:
    assert lattice.upcast(torch.zeros(1, dtype=given)).dtype == kept

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from stn_lightning.distortions import CounterRandom, Rotated, RotatedScaledTranslated
from stn_lightning.geometry import affine, alignment, thin_plate_spline
from stn_lightning.geometry.alignment import Agreement, Pose

SIDE = 42
MIRRORED_AND_SHEARED = [-0.7, 0.2, 0.0, 0.1, 0.9, 0.0]


def applied(n: int = 2000) -> Tensor:
    return RotatedScaledTranslated().theta(CounterRandom(0, 0, 0, torch.arange(n)))


def turned(angle: Tensor) -> Tensor:
    zero = torch.zeros_like(angle)
    return torch.stack([angle.cos(), -angle.sin(), zero, angle.sin(), angle.cos(), zero], 1)


def agreement(distortion: Tensor, crop: Tensor, side: int = SIDE) -> dict[str, Agreement]:
    size = (side, side)
    return alignment.compare(
        alignment.applied_pose(distortion, size), alignment.pose(crop.float(), size)
    )


# Pose


@given(st.floats(-math.pi, math.pi), st.floats(-2, 2), st.floats(-30, 30), st.floats(-30, 30))
def test_the_pose_of_a_similarity_of_pixels_is_what_it_was_made_of(
    angle: float, log_scale: float, x: float, y: float
) -> None:
    height, width = 20, 50
    scale = math.exp(log_scale)
    a, c = scale * math.cos(angle), scale * math.sin(angle)
    theta = [a, -c * height / width, 2 * x / width, c * width / height, a, 2 * y / height]
    pose = alignment.pose(torch.tensor([theta], dtype=torch.float64), (height, width))
    assert math.remainder(pose.angle.item() - angle, 2 * math.pi) == pytest.approx(0, abs=1e-9)
    assert pose.scale.item() == pytest.approx(log_scale, abs=1e-9)
    assert pose.place.tolist()[0] == pytest.approx([x, y], abs=1e-9)


@pytest.mark.parametrize("before", [True, False])
def test_a_similarity_adds_its_angle_and_scale_to_those_of_any_affine_map(before: bool) -> None:
    torch.manual_seed(0)
    shapes = torch.eye(2).flatten() + 0.5 * torch.randn(100, 4, dtype=torch.float64)
    a, b, c, d = shapes.unbind(1)
    zero = torch.zeros_like(a)
    maps = torch.stack([a, b, zero, c, d, zero], 1)
    maps = maps[a * d - b * c > 0]
    turn = torch.tensor([0.3] * len(maps), dtype=torch.float64)
    similar = turned(turn) * 1.25
    both = affine.compose(similar, maps) if before else affine.compose(maps, similar)
    with_it, without = (alignment.pose(theta, (SIDE, SIDE)) for theta in (both, maps))
    added = torch.remainder(with_it.angle - without.angle, 2 * math.pi)
    torch.testing.assert_close(added, turn[:, None])
    torch.testing.assert_close(with_it.scale, without.scale + math.log(1.25))


# Nearest affine map


@pytest.mark.parametrize("size", [(2, 2), (20, 28), (7, 3)])
def test_an_affine_grid_gives_back_its_theta(size: tuple[int, int]) -> None:
    theta = torch.randn(5, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(alignment.nearest_affine(affine.grid(theta, size)), theta)


def test_a_bent_grid_gives_the_affine_map_of_least_squares() -> None:
    points = thin_plate_spline.control_points(4)
    theta = 0.2 * torch.randn(3, 32, generator=torch.Generator().manual_seed(0))
    grid = thin_plate_spline.grid(theta, thin_plate_spline.basis(points, (9, 12)), (9, 12))
    frame = affine.grid(torch.tensor([[1.0, 0, 0, 0, 1, 0]]), (9, 12)).reshape(-1, 2)
    design = torch.cat([frame, torch.ones(len(frame), 1)], 1)
    solution = torch.linalg.lstsq(design.expand(3, -1, -1), grid.flatten(1, 2)).solution
    torch.testing.assert_close(
        alignment.nearest_affine(grid), solution.transpose(1, 2).flatten(1), rtol=1e-4, atol=1e-5
    )


def test_a_grid_of_one_row_is_refused_by_name() -> None:
    grid = affine.grid(torch.tensor([[1.0, 0, 0, 0, 1, 0]]), (1, 5))
    with pytest.raises(ValueError, match="1 x 5 points has no slope"):
        alignment.nearest_affine(grid)


# Agreement


def test_crops_that_undo_the_distortion_agree_whatever_constant_map_comes_after() -> None:
    distortion = applied()
    constant = torch.tensor([MIRRORED_AND_SHEARED]).expand(len(distortion), -1)
    measured = agreement(distortion, affine.compose(affine.inverse(distortion), constant))
    for name, none in {"angle": 0, "scale": 1, "place": 0}.items():
        assert measured[name].correlation == pytest.approx(1, abs=1e-5)
        assert measured[name].error == pytest.approx(none, abs=1e-3)


def test_crops_that_stay_still_have_no_correlation_and_leave_the_whole_distortion() -> None:
    distortion = applied(20000)
    measured = agreement(distortion, torch.tensor([MIRRORED_AND_SHEARED]).expand(20000, -1))
    assert [each.correlation for each in measured.values()] == [0, 0, 0]
    assert measured["angle"].error == pytest.approx(22.5, abs=0.3)  # uniform within 45 degrees


def test_random_crops_have_no_correlation() -> None:
    distortion = Rotated().theta(CounterRandom(0, 0, 0, torch.arange(20000)))
    angle = torch.rand(20000, generator=torch.Generator().manual_seed(0)) * 2 * math.pi
    assert abs(agreement(distortion, turned(angle), 28)["angle"].correlation) < 0.03


def test_what_was_not_applied_has_no_correlation_to_measure() -> None:
    distortion = Rotated().theta(CounterRandom(0, 0, 0, torch.arange(500)))
    measured = agreement(distortion, affine.inverse(distortion), 28)
    assert measured["angle"].correlation == pytest.approx(1)
    assert math.isnan(measured["scale"].correlation)
    assert math.isnan(measured["place"].correlation)


def test_errors_are_degrees_a_factor_and_pixels() -> None:
    n = 1000
    sign = torch.where(torch.arange(n) % 2 == 0, 1.0, -1.0).double()[:, None]
    given = alignment.applied_pose(applied(n), (SIDE, SIDE))
    crop = Pose(
        given.angle + sign * math.radians(5) + 3,  # half of a turn is crossed
        given.scale + sign * math.log(1.1) - 0.7,
        given.place + sign * torch.tensor([3.0, 4.0]) + 9,
    )
    measured = alignment.compare(given, crop)
    assert [each.error for each in measured.values()] == pytest.approx([5, 1.1, 5])
    assert all(0.7 < each.correlation < 0.999 for each in measured.values())


def test_no_images_have_no_agreement() -> None:
    empty = alignment.pose(torch.zeros(0, 6), (SIDE, SIDE))
    assert alignment.compare(empty, empty) == {}

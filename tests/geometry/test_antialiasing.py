import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

from stn_lightning.geometry import affine, lattice, projective, sampling, thin_plate_spline
from stn_lightning.geometry.antialiasing import sample_antialiased

Size = tuple[int, int]
PADDINGS: list[sampling.Padding] = ["zeros", "border", "reflection", [0.3, 0.6, 0.9]]

all_paddings = pytest.mark.parametrize("padding", PADDINGS, ids=str)


def noise(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def area_integral(
    image: Tensor,
    grid_of: Callable[[Size], Tensor],
    size: Size,
    padding: sampling.Padding = "zeros",
) -> Tensor:
    """The mean of 16 x 16 bilinear samples in each output pixel, for any family: the same map,
    drawn 16 times as large.
    """
    fine = sampling.bilinear(image, grid_of((16 * size[0], 16 * size[1])), padding)
    return functional.avg_pool2d(fine, 16)


def turned(degrees: float) -> Tensor:
    a = math.radians(degrees)
    return torch.tensor(
        [[math.cos(a), -math.sin(a)], [math.sin(a), math.cos(a)]], dtype=torch.float64
    )


def theta_of(matrix: Tensor, shift: Tensor) -> Tensor:
    """(B, 6) from one 2 x 2 matrix and a shift for each image."""
    return torch.cat([matrix.expand(len(shift), 2, 2), shift[:, :, None]], dim=2).flatten(1).float()


def rms(difference: Tensor) -> float:
    return difference.square().mean().sqrt().item()


def error_over_bilinears(
    image: Tensor,
    grid_of: Callable[[Size], Tensor],
    size: Size,
    padding: sampling.Padding = "zeros",
) -> float:
    exact, grid = area_integral(image, grid_of, size, padding), grid_of(size)
    return rms(sample_antialiased(image, grid, padding) - exact) / rms(
        sampling.bilinear(image, grid, padding) - exact
    )


# Against the exact area integral

FIFTH, WHOLE = 0.2, turned(0)
SHRINKS = [
    *[(f"both ways by {s}", WHOLE, (s, s)) for s in (2, 4, 8)],
    *[
        (f"turned by {a} degrees, by {s}", turned(a), (s, s))
        for a in (15, 30, 45)
        for s in (2, 4, 8)
    ],
    *[(f"one way by {s}", WHOLE, (s, 1)) for s in (2, 4, 8)],
    *[(f"along a slant of 30 degrees by {s}", turned(30), (s, 1)) for s in (2, 4, 8)],
    *[(f"along a slant of 45 degrees by {s} and 2", turned(45), (s, 2)) for s in (4, 8)],
]


@pytest.mark.parametrize(
    ("turn", "by"), [case[1:] for case in SHRINKS], ids=[case[0] for case in SHRINKS]
)
def test_shrinking_white_noise_leaves_a_fifth_of_bilinears_error(
    turn: Tensor, by: tuple[int, int]
) -> None:
    image, size = (
        noise(16, 1, 96, 96),
        (48 // max(by), 48 // max(by)),
    )  # looks at half the image, wherever it is
    scale = torch.diag(torch.tensor(by, dtype=torch.float64)) * size[0] / 96
    theta = theta_of(turn @ scale, 0.3 * noise(16, 2, seed=1, dtype=torch.float64).clamp(-1, 1))
    assert error_over_bilinears(image, lambda s: affine.grid(theta, s), size) < FIFTH


@pytest.mark.parametrize("by", [2, 4, 8, 16])
def test_shrinking_by_a_power_of_two_is_the_exact_integral(by: int) -> None:
    image, theta = noise(2, 3, 64, 48), torch.tensor([[1.0, 0, 0, 0, 1, 0]] * 2)
    actual = sample_antialiased(image, affine.grid(theta, (64 // by, 48 // by)))
    exact = functional.conv2d(
        image.reshape(6, 1, 64, 48),
        (kernel(by)[:, None] * kernel(by))[None, None],
        stride=by,
        padding=1,
    )
    torch.testing.assert_close(actual, exact.reshape(actual.shape), rtol=0, atol=1e-5)


def kernel(by: int) -> Tensor:
    """What `by` pixels of the linear interpolant around a pixel border are made of: an eighth
    spills over at each end.
    """
    weights = torch.ones(by + 2)
    weights[[0, -1]], weights[[1, -2]] = 1 / 8, 7 / 8
    return weights / by


@pytest.mark.parametrize("by", [1.5, 2.6, 3.0, 3.7, 5.6])
def test_between_the_powers_of_two_it_is_as_good(by: float) -> None:
    image, size = noise(16, 1, 96, 96), (round(48 / by),) * 2
    theta = theta_of(
        turned(20) * (by * size[0] / 96),
        0.3 * noise(16, 2, seed=1, dtype=torch.float64).clamp(-1, 1),
    )
    assert error_over_bilinears(image, lambda s: affine.grid(theta, s), size) < (
        FIFTH if by >= 2 else 0.35
    )  # 1.5 is half-way in


def test_a_homography_leaves_a_fifth_of_bilinears_error() -> None:
    theta = torch.tensor([[0.9, 0.1, 0.05, -0.1, 0.8, 0.02, 0.3, -0.25]])
    assert (
        error_over_bilinears(noise(1, 4, 160, 160), lambda s: projective.grid(theta, s), (48, 48))
        < FIFTH
    )


def test_a_spline_leaves_a_fifth_of_bilinears_error() -> None:
    points, theta = thin_plate_spline.control_points(4), 0.08 * noise(1, 32)

    def grid_of(size: Size) -> Tensor:
        return 0.8 * thin_plate_spline.grid(theta, thin_plate_spline.basis(points, size), size)

    assert error_over_bilinears(noise(1, 4, 160, 160), grid_of, (40, 40)) < FIFTH


@all_paddings
def test_beyond_the_border_it_stays_near_the_integral(padding: sampling.Padding) -> None:
    theta = torch.tensor([[1.2, 0.3, 0.4, -0.2, 1.3, -0.5]])
    assert (
        error_over_bilinears(
            noise(1, 3, 64, 64), lambda s: affine.grid(theta, s), (20, 20), padding
        )
        < FIFTH
    )


# Where nothing shrinks

small = st.floats(-1, 1, width=32)


@given(
    st.floats(-180, 180),
    st.floats(0.05, 0.999),
    st.floats(0.05, 0.999),
    small,
    small,
    st.sampled_from(PADDINGS),
)
def test_it_is_bilinear_bit_for_bit_where_nothing_shrinks(
    degrees: float, long: float, short: float, t_x: float, t_y: float, padding: sampling.Padding
) -> None:
    image, scale = noise(1, 3, 12, 12), torch.diag(torch.tensor([long, short], dtype=torch.float64))
    grid = affine.grid(
        theta_of(turned(degrees) @ scale, torch.tensor([[t_x, t_y]], dtype=torch.float64)), (12, 12)
    )
    assert torch.equal(
        sample_antialiased(image, grid, padding), sampling.bilinear(image, grid, padding)
    )


@all_paddings
def test_the_identity_and_quarter_turns_are_exact(padding: sampling.Padding) -> None:
    image = noise(2, 3, 21, 21)
    for quarters, theta in enumerate(
        [[1.0, 0, 0, 0, 1, 0], [0.0, -1, 0, 1, 0, 0], [-1.0, 0, 0, 0, -1, 0], [0.0, 1, 0, -1, 0, 0]]
    ):
        turned_image = sample_antialiased(
            image, affine.grid(torch.tensor([theta] * 2), (21, 21)), padding
        )
        assert torch.equal(turned_image, torch.rot90(image, quarters, (2, 3)))


def test_pixels_that_do_not_shrink_are_bilinears_beside_others_that_do() -> None:
    """Up to the one cell of the mesh in which the footprint goes from one size to the other."""
    image, steps = noise(1, 3, 40, 64), torch.cat([torch.full((20,), 2.4), torch.full((20,), 0.6)])
    x, y = torch.meshgrid(steps.cumsum(0), torch.arange(40.0), indexing="xy")
    grid = lattice.from_pixels(torch.stack([x, y], -1), (40, 64))[None]
    same = (sample_antialiased(image, grid) == sampling.bilinear(image, grid)).all(1)[0]
    assert same[:, 27:].all()
    assert not same[:, :15].any()


def test_one_image_that_shrinks_changes_nothing_in_its_neighbours_in_the_batch() -> None:
    image = noise(3, 3, 32, 32)
    theta = torch.tensor(
        [[0.45, 0, 0.1, 0, 0.45, 0], [3.0, 0, 0, 0.4, 1, 0], [2.5, 0, 0, 0, 2.5, 0]]
    )
    grid = affine.grid(theta, (16, 16))
    together = sample_antialiased(image, grid)
    assert torch.equal(together[0], sampling.bilinear(image, grid)[0])
    for i in range(3):
        torch.testing.assert_close(
            together[i : i + 1],
            sample_antialiased(image[i : i + 1], grid[i : i + 1]),
            rtol=0,
            atol=1e-5,
        )


# Invariants

affine_maps = st.tuples(*[st.floats(-4, 4, width=32)] * 6).map(
    lambda numbers: torch.tensor([numbers])
)


@given(
    affine_maps,
    st.sampled_from(["border", "reflection", [0.625]]),
    st.integers(1, 20),
    st.integers(1, 20),
)
def test_a_constant_image_stays_constant(
    theta: Tensor, padding: sampling.Padding, height: int, width: int
) -> None:
    sampled = sample_antialiased(
        torch.full((1, 1, height, width), 0.625), affine.grid(theta, (6, 7)), padding
    )
    torch.testing.assert_close(sampled, torch.full_like(sampled, 0.625), rtol=0, atol=1e-6)


@given(st.tuples(*[st.floats(-0.4, 0.4)] * 6).map(lambda numbers: torch.tensor([numbers])))
def test_a_linear_ramp_is_reproduced_inside(theta: Tensor) -> None:
    x, y = lattice.points((90, 140), theta).unbind(-1)
    grid = affine.grid(theta, (6, 7))  # covers at most 0.8 of the image; shrinks by up to 16
    expected = (0.3 * grid[..., 0] - 0.7 * grid[..., 1] + 0.1)[:, None]
    inside = (grid.abs() < 0.7).all(-1)[:, None]
    torch.testing.assert_close(
        sample_antialiased((0.3 * x - 0.7 * y + 0.1)[None, None], grid) * inside,
        expected * inside,
        rtol=0,
        atol=2e-6,
    )


@given(affine_maps, st.sampled_from(["zeros", "border", "reflection"]))
def test_it_is_linear_in_the_image(theta: Tensor, padding: sampling.Padding) -> None:
    a, b, grid = (
        noise(1, 1, 15, 19, seed=2),
        noise(1, 1, 15, 19, seed=3),
        affine.grid(theta, (6, 7)),
    )
    expected = 2 * sample_antialiased(a, grid, padding) - sample_antialiased(b, grid, padding)
    torch.testing.assert_close(
        sample_antialiased(2 * a - b, grid, padding), expected, rtol=0, atol=1e-5
    )


@given(affine_maps, st.sampled_from(["zeros", "border", "reflection"]))
def test_an_image_on_its_side_gives_the_result_on_its_side(
    theta: Tensor, padding: sampling.Padding
) -> None:
    image, grid = noise(1, 1, 16, 24), affine.grid(theta, (6, 7))
    expected = sample_antialiased(image, grid, padding)
    torch.testing.assert_close(
        sample_antialiased(image.mT, grid.flip(-1), padding), expected, rtol=0, atol=1e-5
    )  # the grid says y, x
    torch.testing.assert_close(
        sample_antialiased(image.flip(3), grid * torch.tensor([-1, 1]), padding),
        expected,
        rtol=0,
        atol=1e-5,
    )
    torch.testing.assert_close(
        sample_antialiased(image, grid.flip(2), padding), expected.flip(3), rtol=0, atol=1e-5
    )


def test_it_is_continuous_in_theta_across_all_levels() -> None:
    """A jump would stay as large however short the steps; a continuous curve is bounded by them."""
    image = noise(1, 1, 16, 16, dtype=torch.float64)

    def longest_step(steps: int) -> float:
        t = torch.linspace(0, 1, steps, dtype=torch.float64)
        long, short, angle = 0.6 * 2 ** (5 * t), 0.6 * 2 ** (5 * t.square()), 2.5 * t
        rows = [
            long * angle.cos(),
            -short * angle.sin(),
            0.1 * t,
            long * angle.sin(),
            short * angle.cos(),
            -0.2 * t,
        ]
        sampled = sample_antialiased(
            image.expand(steps, 1, 16, 16), affine.grid(torch.stack(rows, 1), (6, 6)), "border"
        )
        return sampled.diff(dim=0).abs().max().item()

    assert longest_step(8000) < 0.5 * longest_step(2000)


# Outside, precision, formats


@pytest.mark.parametrize("far", [30.0, 1e6, 1e20, math.inf])
@pytest.mark.parametrize("padding", ["zeros", [0.3, 0.6, 0.9]], ids=str)
def test_points_wholly_outside_read_the_padding_exactly(
    padding: sampling.Padding, far: float
) -> None:
    corners = torch.tensor([[[[-far, -far], [far, -far]], [[-far, far], [far, far]]]])
    colour = torch.zeros(3) if padding == "zeros" else torch.tensor(padding)
    assert torch.equal(
        sample_antialiased(noise(1, 3, 5, 7), corners, padding),
        colour[None, :, None, None].expand(1, 3, 2, 2),
    )


@pytest.mark.parametrize("size", [1e6, 1e20])
@all_paddings
def test_huge_parameters_give_finite_pixels_and_gradients(
    padding: sampling.Padding, size: float
) -> None:
    image, theta = noise(2, 3, 5, 7).requires_grad_(), (size * noise(2, 6, seed=4)).requires_grad_()
    sampled = sample_antialiased(image, affine.grid(theta, (4, 6)), padding)
    sampled.square().sum().backward()
    assert image.grad is not None
    assert theta.grad is not None
    for values in (sampled, image.grad, theta.grad):
        assert torch.isfinite(values).all()


@pytest.mark.parametrize(
    "numbers",
    [
        [0.0] * 6,
        [1.0, 0, 0, 0, 1, 0],
        [2.0, 0, 0, 0, 2, 0],
        [3.0, 0, 0, 0, 0, 0],
        [1.0, 1, 0, 1, 1, 0],
    ],
    ids=str,
)
def test_gradients_are_finite_where_a_footprint_is_a_point_a_line_or_a_square(
    numbers: list[float],
) -> None:
    theta = torch.tensor([numbers]).requires_grad_()
    sample_antialiased(noise(1, 1, 16, 16), affine.grid(theta, (8, 8))).square().sum().backward()
    assert theta.grad is not None
    assert torch.isfinite(theta.grad).all()


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (9, 1), (2, 30)], ids=str)
@all_paddings
def test_images_and_outputs_of_one_pixel_are_no_special_case(
    size: Size, padding: sampling.Padding
) -> None:
    image = noise(2, 3, *size)
    for out in [(1, 1), (1, 4), (5, 1)]:
        grid = affine.grid(torch.tensor([[1.0, 0, 0, 0, 1, 0], [1.7, 0.2, 0, 0.1, 1, 0]]), out)
        sampled = sample_antialiased(image, grid, padding)
        assert sampled.shape == (2, 3, *out)
        assert torch.isfinite(sampled).all()
        assert sampled.abs().max() <= max(image.abs().max().item(), 1) + 1e-5


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64], ids=str)
@all_paddings
def test_it_computes_in_float32_at_least_and_answers_in_the_images_precision(
    dtype: torch.dtype, padding: sampling.Padding
) -> None:
    image = noise(1, 3, 20, 24).to(dtype)
    grid = affine.grid(torch.tensor([[1.0, 0.2, 0, 0, 1.4, 0.1]]), (9, 10))
    sampled = sample_antialiased(image, grid, padding)
    assert sampled.dtype == dtype
    assert torch.equal(
        sampled,
        sample_antialiased(
            image.double() if dtype == torch.float64 else image.float(), grid, padding
        ).to(dtype),
    )


@all_paddings
def test_channels_last_stays_channels_last(padding: sampling.Padding) -> None:
    image, grid = (
        noise(2, 3, 20, 24),
        affine.grid(torch.tensor([[1.0, 0.2, 0, 0, 1.4, 0.1]] * 2), (9, 10)),
    )
    interleaved = sample_antialiased(
        image.contiguous(memory_format=torch.channels_last), grid, padding
    )
    assert interleaved.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(
        interleaved, sample_antialiased(image, grid, padding), rtol=0, atol=1e-6
    )


def test_a_colour_that_does_not_fit_is_refused() -> None:
    with pytest.raises(
        ValueError, match=r"a padding colour of 2 numbers for an image of 3 channels"
    ):
        sample_antialiased(noise(1, 3, 4, 4), torch.zeros(1, 2, 2, 2), [0.1, 0.2])


# Gradients

REGIMES = {
    "growing": [1.15, 0.1, 0.1, -0.1, 1.1, 0.05],
    "round": [1.6, 0.2, 0.1, -0.3, 1.7, 0.05],
    "long": [2.9, 0.2, 0.1, -0.3, 0.8, 0.05],
    "huge": [5.0, 0.2, 0.1, -0.3, 5.5, 0.05],
}


@pytest.mark.parametrize("theta", REGIMES.values(), ids=REGIMES)
@pytest.mark.parametrize("padding", ["zeros", "border", "reflection", [0.3]], ids=str)
def test_gradients_of_image_and_theta_are_right_once_and_twice(
    theta: list[float], padding: sampling.Padding
) -> None:
    image, parameters = (
        noise(1, 1, 9, 10, dtype=torch.float64),
        torch.tensor([theta], dtype=torch.float64),
    )
    parameters += 0.05 * noise(1, 6, dtype=torch.float64)  # away from the kinks

    def warp(image: Tensor, theta: Tensor) -> Tensor:
        return sample_antialiased(image, affine.grid(theta, (2, 3)), padding)

    assert torch.autograd.gradcheck(warp, (image.requires_grad_(), parameters.requires_grad_()))
    assert torch.autograd.gradgradcheck(warp, (image, parameters))


# Parallel looks, compilers, transforms


def test_no_footprint_reaches_across_the_seam_of_two_looks() -> None:
    image, theta = (
        noise(2, 3, 40, 40),
        torch.tensor(
            [[1.0, 0.1, 0, 0, 1, 0], [0.4, 0, -0.5, 0, 0.4, 0.5], [1.0, 0, 0.2, 0.3, 0.6, 0]]
        ),
    )
    grids = torch.stack(
        [affine.grid(theta[:, None].expand(3, 2, 6)[:, i], (20, 16)) for i in range(2)]
    )  # (2, 3, 20, 16, 2)
    tall = sample_antialiased(image, grids.flatten(1, 2), num_grids=3)
    for i in range(3):
        apart = tall[:, :, 20 * i : 20 * (i + 1)]
        torch.testing.assert_close(apart, sample_antialiased(image, grids[:, i]), rtol=0, atol=1e-6)


class Warp(nn.Module):
    def forward(self, image: Tensor, theta: Tensor) -> Tensor:
        return sample_antialiased(image, affine.grid(theta, (16, 16)))


@pytest.mark.parametrize("theta", REGIMES.values(), ids=REGIMES)
def test_traced_for_export_it_is_the_same_function_of_every_theta(theta: list[float]) -> None:
    """In one graph, where no value may decide what is read."""
    image, traced_at, parameters = (
        noise(2, 3, 32, 32),
        torch.tensor([[1.0, 0, 0, 0, 1, 0]] * 2),
        torch.tensor([theta] * 2),
    )
    traced = torch.export.export(Warp(), (image, traced_at), strict=False).module()
    torch.testing.assert_close(
        traced(image, parameters), Warp()(image, parameters), rtol=0, atol=1e-5
    )


def test_vmap_and_jacrev_see_what_a_loop_sees() -> None:
    image, theta = noise(3, 2, 20, 20), torch.tensor([*REGIMES.values()][:3])

    def warp(image: Tensor, theta: Tensor) -> Tensor:
        return sample_antialiased(image[None], affine.grid(theta[None], (7, 8)))[0]

    torch.testing.assert_close(
        torch.func.vmap(warp)(image, theta),
        torch.stack([warp(*one) for one in zip(image, theta, strict=True)]),
    )
    slopes: Any = torch.func.vmap(torch.func.jacrev(lambda t, i: warp(i, t).square().sum()))(
        theta, image
    )
    for i in range(3):
        leaf = theta[i].clone().requires_grad_()
        warp(image[i], leaf).square().sum().backward()
        torch.testing.assert_close(slopes[i], leaf.grad, rtol=1e-4, atol=1e-4)

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from stn_lightning.geometry import affine, lattice, sampling
from stn_lightning.geometry.antialiasing import sample_antialiased
from stn_lightning.geometry.wide import blur_image, widen_gradient

PADDINGS: list[sampling.Padding] = ["zeros", "border", "reflection", [0.3, 0.6, 0.9]]

all_paddings = pytest.mark.parametrize("padding", PADDINGS, ids=str)


def noise(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def blob(x: float, y: float) -> Tensor:
    """A bump of an eighth of the image's width on nothing."""
    away = (lattice.points((64, 64), torch.zeros(1)) - torch.tensor([x, y])).norm(dim=-1)
    return (1 - (away / 0.12).square()).clamp(min=0)[None, None]


def crop(image: Tensor, centre: Tensor, wide: bool) -> Tensor:
    """A crop of three tenths of the image's side."""
    grid = affine.grid(affine.from_translation(centre, 0.3), (24, 24))
    sampled = sampling.bilinear(image, grid)
    return widen_gradient(sampled, image, grid) if wide else sampled


def sought(image: Tensor, wanted: Tensor, start: list[float], wide: bool) -> Tensor:
    """Where gradient descent leaves a crop that shall look like `wanted`."""
    centre = torch.tensor([start]).requires_grad_()
    optimiser = torch.optim.Adam([centre], lr=0.02)
    for _ in range(150):
        optimiser.zero_grad()
        (-(crop(image, centre, wide) * wanted).mean()).backward()
        optimiser.step()
    return centre.detach()[0]


# What it is for


@pytest.mark.parametrize(
    "start", [[-0.5, -0.4], [-0.6, 0.3], [0.1, -0.2], [1.2, 1.2], [-1.2, -1.0]], ids=str
)
def test_a_crop_that_starts_beyond_the_object_finds_it_and_bilinear_does_not(
    start: list[float],
) -> None:
    """The last two start outside of the image altogether."""
    place = torch.tensor([0.5, 0.4])
    image = blob(0.5, 0.4)
    wanted = crop(image, place[None], wide=False)
    assert not crop(image, torch.tensor([start]), wide=False).any()
    assert torch.equal(sought(image, wanted, start, wide=False), torch.tensor(start))
    assert (sought(image, wanted, start, wide=True) - place).norm() < 0.05


@given(st.floats(-0.8, 0.8), st.floats(-0.8, 0.8), st.floats(-1.5, 1.5), st.floats(-1.5, 1.5))
def test_from_everywhere_the_gradient_points_towards_the_object(
    x: float, y: float, t_x: float, t_y: float
) -> None:
    centre = torch.tensor([[t_x, t_y]]).requires_grad_()
    crop(blob(x, y), centre, wide=True).mean().backward()
    assert centre.grad is not None
    for slope, there, here in zip(centre.grad[0].tolist(), (x, y), (t_x, t_y), strict=True):
        assert (
            abs(there - here) < 0.45 or slope * (there - here) > 0
        )  # nearer than that the crop holds part of it


# What it is


def copy_cell_by_cell(image: Tensor) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
    """Means of the image over 16 x 16 squares, half as many zeros around, every cell spread by 1 /
    (1 + distance) along each axis.
    """
    h, w = image.shape[0] // 16, image.shape[1] // 16
    cells = np.zeros((32, 32))
    for i in range(16):
        for j in range(16):
            cells[8 + i, 8 + j] = image[h * i : h * (i + 1), w * j : w * (j + 1)].mean()
    for _ in range(2):  # along the columns, then the rows
        spread = np.zeros((32, 32))
        for i in range(32):
            weights = [1 / (1 + abs(i - k)) for k in range(32)]
            for k in range(32):
                spread[i] += weights[k] / sum(weights) * cells[k]
        cells = spread.T
    return cells


def test_the_copy_agrees_with_a_loop_over_its_cells() -> None:
    image = noise(1, 1, 32, 48)
    np.testing.assert_allclose(
        blur_image(image)[0, 0].numpy(), copy_cell_by_cell(image[0, 0]), rtol=0, atol=1e-6
    )


@all_paddings
def test_what_is_read_stays_as_it_is_bit_for_bit(padding: sampling.Padding) -> None:
    image, theta = (
        noise(2, 3, 20, 24),
        torch.tensor([[0.7, 0.2, 0.1, 0, 1.4, 0.1], [3.0, 0, 0, 0, 3, 0]]).requires_grad_(),
    )
    grid = affine.grid(theta, (9, 10))
    for sampled in (
        sampling.bilinear(image, grid, padding),
        sample_antialiased(image, grid, padding),
    ):
        assert torch.equal(widen_gradient(sampled, image, grid, padding), sampled)


@all_paddings
def test_the_grids_gradient_is_the_sum_of_both_and_the_images_is_its_own(
    padding: sampling.Padding,
) -> None:
    image = noise(1, 3, 20, 24, dtype=torch.float64).requires_grad_()
    grid = (2.4 * torch.rand(1, 5, 6, 2, dtype=torch.float64) - 1.2).requires_grad_()
    weights = noise(1, 3, 5, 6, dtype=torch.float64, seed=1)
    sampled = sampling.bilinear(image, grid, padding)
    own_of_image, own_of_grid = torch.autograd.grad(
        (sampled * weights).sum(), (image, grid), retain_graph=True
    )
    of_image, of_grid = torch.autograd.grad(
        (widen_gradient(sampled, image, grid, padding) * weights).sum(), (image, grid)
    )
    assert torch.equal(of_image, own_of_image)

    def seen(grid: Tensor) -> Tensor:
        return sampling.bilinear(blur_image(image, padding), grid / 2)

    numerical = torch.zeros_like(grid)
    for at in np.ndindex(*grid.shape):
        step = torch.zeros_like(grid)
        step[at] = 1e-6
        numerical[at] = ((seen(grid + step) - seen(grid - step)) * weights).sum() / 2e-6
    torch.testing.assert_close(of_grid - own_of_grid, numerical.detach(), rtol=0, atol=1e-6)


@pytest.mark.parametrize("padding", ["border", "reflection", [0.625]], ids=str)
def test_a_constant_image_pulls_nowhere(padding: sampling.Padding) -> None:
    theta = torch.tensor([[0.7, 0.2, 0.1, 0, 1.4, 0.1]]).requires_grad_()
    grid, image = affine.grid(theta, (9, 10)), torch.full((1, 1, 20, 24), 0.625)
    widen_gradient(torch.zeros(1, 1, 9, 10), image, grid, padding).square().sum().backward()
    assert theta.grad is not None
    assert theta.grad.abs().max() < 1e-6


def test_it_can_be_differentiated_twice() -> None:
    theta = torch.tensor([[0.7, 0.2, 0.1, 0.05, 0.8, 0.1]]).requires_grad_()
    grid, image = affine.grid(theta, (9, 10)), noise(1, 1, 20, 24)
    (first,) = torch.autograd.grad(
        widen_gradient(sampling.bilinear(image, grid), image, grid).square().sum(),
        theta,
        create_graph=True,
    )
    (second,) = torch.autograd.grad(first.square().sum(), theta)
    assert torch.isfinite(second).all()
    assert second.any()


# Precision, transforms


@pytest.mark.parametrize("size", [1e6, 1e20])
@all_paddings
def test_huge_parameters_give_finite_gradients(padding: sampling.Padding, size: float) -> None:
    theta = (size * noise(2, 6, seed=4)).requires_grad_()
    image, grid = noise(2, 3, 5, 7), affine.grid(theta, (4, 6))
    widen_gradient(
        sampling.bilinear(image, grid, padding), image, grid, padding
    ).square().sum().backward()
    assert theta.grad is not None
    assert torch.isfinite(theta.grad).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_autocast_and_half_precision_change_the_gradient_by_no_more_than_the_images_rounding(
    dtype: torch.dtype,
) -> None:
    def slope(image: Tensor) -> Tensor:
        theta = torch.tensor([[0.7, 0.2, 0.1, 0, 0.8, 0.1]]).requires_grad_()
        grid = affine.grid(theta, (9, 10))
        sampled = widen_gradient(torch.zeros(1, 3, 9, 10, dtype=image.dtype), image, grid)
        assert sampled.dtype == image.dtype
        (sampled.float() * noise(1, 3, 9, 10, seed=1)).sum().backward()
        assert theta.grad is not None
        return theta.grad

    image = noise(1, 3, 20, 24).to(dtype).float()
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(slope(image.to(dtype)), slope(image), rtol=0.02, atol=0.02)
        under_autocast = slope(image)
    assert torch.equal(under_autocast, slope(image))


def test_without_gradients_nothing_is_blurred(monkeypatch: pytest.MonkeyPatch) -> None:
    image, grid = (
        noise(1, 1, 20, 24),
        affine.grid(torch.tensor([[0.7, 0.2, 0.1, 0, 0.8, 0.1]]), (9, 10)),
    )
    monkeypatch.setattr("stn_lightning.geometry.wide.blur_image", None)
    sampled = sampling.bilinear(image, grid)
    with torch.no_grad():
        assert widen_gradient(sampled, image, grid) is sampled


class Warp(nn.Module):
    def forward(self, image: Tensor, theta: Tensor) -> Tensor:
        grid = affine.grid(theta, (16, 16))
        return widen_gradient(sampling.bilinear(image, grid), image, grid)


def test_vmap_jacrev_and_export_see_the_same_function() -> None:
    image, theta = noise(3, 2, 20, 20), torch.tensor([[0.7, 0.2, 0.1, 0.05, 0.8, 0.1]] * 3)
    slopes = torch.func.vmap(
        torch.func.jacrev(lambda t, i: Warp()(i[None], t[None]).square().sum())
    )(theta, image)
    leaf = theta.clone().requires_grad_()
    Warp()(image, leaf).square().sum().backward()
    torch.testing.assert_close(slopes, leaf.grad, rtol=1e-4, atol=1e-4)
    traced = torch.export.export(Warp(), (image, theta), strict=False).module()
    torch.testing.assert_close(traced(image, theta), Warp()(image, theta))

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from stn_lightning.geometry import affine, antialiasing, deterministic, sampling, wide
from stn_lightning.geometry.deterministic import Kernel

CASES: list[tuple[Kernel, int]] = [
    ("bilinear", 2),
    ("nearest", 2),
    ("bicubic", 2),
    ("bilinear", 3),
    ("nearest", 3),
]

all_kernels = pytest.mark.parametrize(("kernel", "dimensions"), CASES)
both_lattices = pytest.mark.parametrize("corners", [False, True])


def canvas_and_grid(dimensions: int, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    """Points inside, outside and across the border, on none of the kinks."""
    size, out = (4, 5, 3)[:dimensions], (2, 3, 2)[:dimensions]
    canvas, grid = (
        torch.rand(2, 2, *size, dtype=dtype),
        2.8 * torch.rand(2, *out, dimensions, dtype=dtype) - 1.4,
    )
    return canvas.requires_grad_(), grid.requires_grad_()


def gradients(sampled: Tensor, *of: Tensor) -> tuple[Tensor, ...]:
    return torch.autograd.grad(
        (sampled * torch.rand(sampled.shape, generator=torch.Generator().manual_seed(1))).sum(), of
    )


@pytest.fixture
def asked() -> Iterator[None]:
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


class OnGpu(torch.Tensor):
    """A tensor that says it lives on a GPU, where there is none."""

    is_cuda = True


@both_lattices
@all_kernels
def test_values_and_gradients_are_grid_samples(
    kernel: Kernel, dimensions: int, corners: bool
) -> None:
    canvas, grid = canvas_and_grid(dimensions)
    sampled = deterministic.gather_sample(canvas, grid, kernel, corners)
    expected = functional.grid_sample(canvas, grid, kernel, align_corners=corners)
    assert torch.equal(sampled, expected)
    for actual, wanted in zip(
        gradients(sampled, canvas, grid), gradients(expected, canvas, grid), strict=True
    ):
        torch.testing.assert_close(actual, wanted, rtol=0, atol=1e-12)


@all_kernels
def test_gradients_in_float32_agree_to_a_millionth(kernel: Kernel, dimensions: int) -> None:
    canvas, grid = canvas_and_grid(dimensions, torch.float32)
    actual = gradients(deterministic.gather_sample(canvas, grid, kernel), canvas, grid)
    expected = gradients(
        functional.grid_sample(canvas, grid, kernel, align_corners=False), canvas, grid
    )
    for one, other in zip(actual, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=3e-6)


@all_kernels
def test_it_can_be_differentiated_twice(kernel: Kernel, dimensions: int) -> None:
    inputs = canvas_and_grid(dimensions)
    assert torch.autograd.gradcheck(
        lambda canvas, grid: deterministic.gather_sample(canvas, grid, kernel), inputs
    )
    assert torch.autograd.gradgradcheck(
        lambda canvas, grid: deterministic.gather_sample(canvas, grid, kernel), inputs
    )


def test_the_canvass_gradient_is_not_computed_when_no_one_needs_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    canvas, grid = canvas_and_grid(2)
    monkeypatch.setattr(torch.Tensor, "scatter_add", None)
    deterministic.gather_sample(canvas.detach(), grid).sum().backward()
    assert grid.grad is not None
    with pytest.raises(TypeError):  # where it is needed, that is how it would be computed
        deterministic.gather_sample(canvas, grid.detach()).sum().backward()


@all_kernels
def test_vmap_and_jacrev_see_what_a_loop_sees(kernel: Kernel, dimensions: int) -> None:
    canvas, grid = (
        torch.stack([one.detach(), one.detach().flip(0)]) for one in canvas_and_grid(dimensions)
    )

    def slope(canvas: Tensor, grid: Tensor) -> Tensor:
        result: Tensor = torch.func.jacrev(
            lambda g: deterministic.gather_sample(canvas, g, kernel).square().sum()
        )(grid)
        return result

    together = torch.func.vmap(slope)(canvas, grid)
    for i in range(2):
        leaf = grid[i].clone().requires_grad_()
        functional.grid_sample(
            canvas[i], leaf, kernel, align_corners=False
        ).square().sum().backward()
        torch.testing.assert_close(together[i], leaf.grad, rtol=0, atol=1e-12)


def test_a_gpu_gathers_when_deterministic_algorithms_are_asked_for(
    asked: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = torch.rand(2, 2, 1, 1)
    monkeypatch.setattr(deterministic, "gather_sample", lambda *_: answer)
    canvas, grid = canvas_and_grid(2)
    assert (
        deterministic.deterministic_sample(canvas.detach().as_subclass(OnGpu), grid[:, :1, :1])
        is answer
    )


def test_a_cpu_and_a_gpu_that_may_be_random_use_the_faster_backward(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(deterministic, "gather_sample", None)
    canvas, grid = canvas_and_grid(2)
    deterministic.deterministic_sample(canvas.detach().as_subclass(OnGpu), grid.detach())
    torch.use_deterministic_algorithms(True)
    deterministic.deterministic_sample(canvas, grid)
    torch.use_deterministic_algorithms(False)


def with_a_wide_gradient(image: Tensor, grid: Tensor, padding: sampling.Padding) -> Tensor:
    return wide.widen_gradient(sampling.bilinear(image, grid, padding), image, grid, padding)


@pytest.mark.parametrize("padding", ["zeros", "border", "reflection", [0.3, 0.6, 0.9]], ids=str)
@pytest.mark.parametrize(
    "reader",
    [sampling.bilinear, sampling.bicubic, antialiasing.sample_antialiased, with_a_wide_gradient],
)
def test_every_way_to_read_an_image_goes_through_it(
    reader: Any, padding: sampling.Padding, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = torch.rand(2, 3, 19, 21).requires_grad_()
    theta = torch.tensor(
        [[0.7, -0.4, 0.13, 0.35, 0.9, -0.21], [0.7, -0.1, 0.13, 0.05, 0.2, -0.21]]
    ).requires_grad_()

    def slopes() -> tuple[Tensor, ...]:
        return gradients(reader(image, affine.grid(theta, (6, 7)), padding), image, theta)

    expected = slopes()
    calls = [0]

    def counted(*arguments: Any, **named: Any) -> Tensor:
        calls[0] += 1
        return deterministic.gather_sample(*arguments, **named)

    for room in (sampling, antialiasing, wide):
        monkeypatch.setattr(room, "deterministic_sample", counted)
    for actual, wanted in zip(slopes(), expected, strict=True):
        torch.testing.assert_close(actual, wanted, rtol=1e-4, atol=1e-4)
    assert calls[0]


def test_deterministic_algorithms_can_be_asked_for_on_a_cpu_and_repeat_to_the_bit(
    asked: None,
) -> None:
    image = torch.rand(2, 3, 19, 21).requires_grad_()
    theta = torch.tensor(
        [[0.7, -0.4, 0.13, 0.35, 0.9, -0.21], [0.7, -0.1, 0.13, 0.05, 0.2, -0.21]]
    ).requires_grad_()
    for reader in (sampling.bilinear, antialiasing.sample_antialiased, with_a_wide_gradient):
        for padding in ("zeros", "border"):
            once, again = (
                gradients(reader(image, affine.grid(theta, (6, 7)), padding), image, theta)
                for _ in range(2)
            )
            assert all(torch.equal(one, other) for one, other in zip(once, again, strict=True))

"""Rows against PyTorch's own planes."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from stn_lightning.geometry import affine, lattice, rows, sampling


def feature_maps(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, dtype=dtype, generator=torch.Generator().manual_seed(0)).to(
        memory_format=torch.channels_last
    )


def looks(n: int, size: tuple[int, int], spread: float = 0.4) -> Tensor:
    """Grids, a part of each beyond the border."""
    theta = torch.tensor([1.0, 0.0, 0.0, 0.0, 1.0, 0.0], dtype=torch.float64)
    noise = spread * torch.randn(
        n, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1)
    )
    return affine.grid(theta + noise, size)


def planes(canvas: Tensor, grid: Tensor) -> Tensor:
    return functional.grid_sample(canvas, grid, "bilinear", "zeros", align_corners=False)


@pytest.mark.parametrize(
    ("size", "out"), [((8, 8), (8, 8)), ((8, 16), (5, 7)), ((5, 3), (9, 9)), ((1, 1), (2, 2))]
)
def test_values_and_gradients_are_those_of_grid_sample(
    size: tuple[int, int], out: tuple[int, int]
) -> None:
    canvas, grid = feature_maps(3, 4, *size).requires_grad_(), looks(3, out).requires_grad_()
    mine, theirs = rows.bilinear(canvas, grid), planes(canvas, grid)
    torch.testing.assert_close(mine, theirs)
    slope = torch.randn(
        theirs.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(2)
    )
    for ours, pytorchs in zip(
        torch.autograd.grad(mine, (canvas, grid), slope),
        torch.autograd.grad(theirs, (canvas, grid), slope),
        strict=True,
    ):
        torch.testing.assert_close(ours, pytorchs)


@pytest.mark.parametrize("learning", ["canvas", "grid"])
def test_only_what_learns_gets_a_gradient(learning: str) -> None:
    inputs = {"canvas": feature_maps(2, 3, 4, 4), "grid": looks(2, (4, 4))}
    inputs[learning].requires_grad_()
    rows.bilinear(**inputs).square().sum().backward()
    assert {name for name, value in inputs.items() if value.grad is not None} == {learning}


def test_derivatives_are_right() -> None:
    canvas, grid = feature_maps(1, 2, 4, 4).requires_grad_(), looks(1, (3, 3)).requires_grad_()
    assert torch.autograd.gradcheck(rows.bilinear, (canvas, grid))


def test_a_second_derivative_is_refused_and_not_wrong() -> None:
    grid = looks(1, (3, 3)).requires_grad_()
    (slope,) = torch.autograd.grad(
        rows.bilinear(feature_maps(1, 2, 4, 4), grid).square().sum(), grid, create_graph=True
    )
    with pytest.raises(RuntimeError, match="once_differentiable"):
        slope.sum().backward()


def test_the_identity_returns_the_feature_maps_bit_for_bit() -> None:
    canvas = feature_maps(2, 64, 16, 16, dtype=torch.float32)
    grid = lattice.points((16, 16), canvas).expand(2, -1, -1, -1)
    assert torch.equal(rows.bilinear(canvas, grid), canvas)
    odd = feature_maps(2, 64, 13, 9, dtype=torch.float32)
    assert torch.equal(
        sampling.bilinear(odd, lattice.points((13, 9), odd).expand(2, -1, -1, -1)), odd
    )


def test_points_that_are_no_numbers_stay_no_numbers() -> None:
    canvas, grid = feature_maps(1, 4, 4, 4), looks(1, (2, 2))
    grid[0, 0, 0] = torch.nan
    read = rows.bilinear(canvas, grid)
    assert read[..., 0, 0].isnan().all()
    torch.testing.assert_close(read[..., 1, 1], planes(canvas, grid)[..., 1, 1])


@pytest.mark.parametrize("padding", ["zeros", "border", "reflection"])
def test_sampling_reads_many_channels_as_it_reads_few(padding: sampling.Padding) -> None:
    canvas, grid = (
        feature_maps(2, rows.CHANNELS, 9, 12, dtype=torch.float32),
        looks(2, (6, 6)).float(),
    )
    assert rows.lies_in_rows(canvas)
    read = sampling.bilinear(canvas, grid, padding)
    assert read.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(read, sampling.bilinear(canvas.contiguous(), grid, padding))


def test_few_channels_planes_and_graphs_are_left_to_grid_sample() -> None:
    assert not rows.lies_in_rows(feature_maps(2, rows.CHANNELS - 1, 8, 8))
    assert not rows.lies_in_rows(feature_maps(2, rows.CHANNELS, 8, 8).contiguous())
    assert not rows.lies_in_rows(torch.zeros(1, rows.CHANNELS, 2, 2, 2))

    class Read(torch.nn.Module):
        def forward(self, canvas: Tensor, grid: Tensor) -> Tensor:
            return sampling.bilinear(canvas, grid)

    inputs = feature_maps(1, rows.CHANNELS, 8, 8, dtype=torch.float32), looks(1, (4, 4)).float()
    program = torch.export.export(Read(), inputs)
    assert any("grid_sampler" in str(node.target) for node in program.graph.nodes)


def test_vmap_sees_what_a_loop_sees() -> None:
    canvas, grid = (
        feature_maps(3, rows.CHANNELS, 8, 8, dtype=torch.float32),
        looks(3, (4, 4)).float(),
    )
    read = torch.func.vmap(lambda c, g: sampling.bilinear(c[None], g[None])[0])(canvas, grid)
    torch.testing.assert_close(read, sampling.bilinear(canvas, grid))


def test_a_batch_without_pictures_stays_one() -> None:
    canvas, grid = feature_maps(2, rows.CHANNELS, 8, 8)[:0], looks(2, (4, 4))[:0]
    assert sampling.bilinear(canvas, grid).shape == (0, rows.CHANNELS, 4, 4)

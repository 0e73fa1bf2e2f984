import pytest
import torch
from torch import Tensor, nn

from stn_lightning.geometry import affine, antialiasing, sampling, wide
from stn_lightning.transformers import (
    Affine,
    Antialiased,
    Bicubic,
    Bilinear,
    FullyConnectedLocalisation,
    Nearest,
    Sampler,
    SpatialTransformer,
    Trilinear,
    WideGradient,
)

PLANE: list[Sampler] = [
    Bilinear("border"),
    Nearest(),
    Bicubic("reflection"),
    Antialiased("border"),
    Antialiased([0.3, 0.6, 0.9]),
]
PLANE += [WideGradient(), WideGradient(Antialiased())]


def grids(n: int) -> Tensor:
    """`n` grids for each of two images, some of which shrink and some of which don't; (2, n, 12, 9,
    2).
    """
    theta = torch.tensor(
        [
            [1.0, 0.1, 0, 0, 1, 0],
            [0.2, 0, -0.5, 0, 0.2, 0.5],
            [1.0, 0, 0.2, 0.3, 0.6, 0],
            [0.3, 0.1, 0.1, -0.1, 0.3, 0],
        ]
    )
    return torch.stack([affine.grid(theta.roll(i, 0)[:n], (12, 9)) for i in range(2)])


@pytest.mark.parametrize("padding", ["zeros", "border", "reflection", [0.3, 0.6, 0.9]], ids=str)
def test_antialiased_is_its_function_with_its_padding(padding: sampling.Padding) -> None:
    image, grid = torch.rand(2, 3, 40, 40), grids(1)[:, 0]
    assert torch.equal(
        Antialiased(padding)(image, grid), antialiasing.sample_antialiased(image, grid, padding)
    )


@pytest.mark.parametrize(
    "reader",
    [Bilinear("border"), Bicubic(), Antialiased([0.3, 0.6, 0.9])],
    ids=lambda reader: type(reader).__name__,
)
def test_a_wide_gradient_reads_what_its_sampler_reads_with_that_ones_padding(
    reader: Sampler,
) -> None:
    image, grid = torch.rand(2, 3, 40, 40), grids(1)[:, 0].requires_grad_()
    assert torch.equal(WideGradient(reader)(image, grid), reader(image, grid))
    weights = torch.rand(2, 3, 12, 9)
    (actual,) = torch.autograd.grad((WideGradient(reader)(image, grid) * weights).sum(), grid)
    (expected,) = torch.autograd.grad(
        (wide.widen_gradient(reader(image, grid), image, grid, reader.padding) * weights).sum(),
        grid,
    )
    torch.testing.assert_close(actual, expected)


def test_a_wide_gradient_reads_bilinearly_with_zeros_outside_unless_told_otherwise() -> None:
    image, grid = torch.rand(2, 3, 40, 40), grids(1)[:, 0]
    assert torch.equal(WideGradient()(image, grid), sampling.bilinear(image, grid, "zeros"))


@pytest.mark.parametrize("sampler", PLANE, ids=lambda sampler: type(sampler).__name__)
def test_each_of_several_grids_is_read_as_if_alone(sampler: Sampler) -> None:
    image, several = torch.rand(2, 3, 40, 40), grids(3).requires_grad_()
    together = sampler.sample_each(image, several)
    assert together.shape == (2, 3, 3, 12, 9)
    apart = torch.stack([sampler(image, several[:, i]) for i in range(3)], dim=1)
    torch.testing.assert_close(together, apart, rtol=0, atol=1e-6)
    weights = torch.rand_like(apart)
    (one,) = torch.autograd.grad((together * weights).sum(), several)
    (other,) = torch.autograd.grad((apart * weights).sum(), several)
    torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


def test_each_of_several_grids_in_a_volume_is_read_as_if_alone() -> None:
    volume, several = torch.rand(2, 3, 4, 5, 6), 2.4 * torch.rand(2, 3, 4, 3, 2, 3) - 1.2
    apart = torch.stack([Trilinear()(volume, several[:, i]) for i in range(3)], dim=1)
    assert torch.equal(Trilinear().sample_each(volume, several), apart)


@pytest.mark.parametrize(
    "sampler",
    [Antialiased(), WideGradient(), WideGradient(Antialiased("border"))],
    ids=lambda s: type(s).__name__,
)
def test_a_transformer_starts_at_the_identity_with_it_and_learns(sampler: Sampler) -> None:
    image = torch.rand(4, 1, 16, 16)
    transformer = SpatialTransformer(FullyConnectedLocalisation([8]), Affine(), sampler=sampler)
    assert torch.equal(transformer(image), image)
    halved = SpatialTransformer(
        FullyConnectedLocalisation([8]), Affine(), size=(8, 8), sampler=sampler
    )
    (halved(image) * torch.rand(8, 8)).sum().backward()
    assert all(
        parameter.grad is not None and torch.isfinite(parameter.grad).all()
        for parameter in halved.parameters()
    )
    regression = halved.regression.linear
    assert isinstance(regression, nn.Linear)
    assert regression.weight.grad is not None
    assert regression.weight.grad.any()

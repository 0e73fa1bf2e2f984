"""Integer images are refused: sampled as they are, they would be truncated, or wrap around."""

from collections.abc import Callable

import jaxtyping
import pytest
import torch
from torch import Tensor

from stn_lightning.geometry import affine, antialiasing, moments, sampling, wide
from stn_lightning.geometry.lattice import upcast
from stn_lightning.transformers import (
    Antialiased,
    Bicubic,
    Bilinear,
    Nearest,
    Sampler,
    Trilinear,
    WideGradient,
)

Sample = Callable[[Tensor, Tensor], Tensor]

PLANE: list[Sample] = [
    sampling.bilinear,
    sampling.nearest,
    sampling.bicubic,
    antialiasing.sample_antialiased,
    lambda image, grid: sampling.bilinear(image, grid, [0.5]),
    lambda image, grid: antialiasing.sample_antialiased(image, grid, [0.5]),
    lambda image, grid: wide.widen_gradient(image, image, grid),
]
SAMPLERS: list[Sampler] = [Bilinear(), Nearest(), Bicubic(), Antialiased(), WideGradient()]
INTEGERS = [torch.uint8, torch.int16, torch.int64, torch.bool]

GRID = torch.zeros(1, 4, 5, 2)


@pytest.fixture(autouse=True)
def unchecked(monkeypatch: pytest.MonkeyPatch) -> None:
    """As for a user: under test the check of shapes would be first to refuse."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)


def refused() -> pytest.RaisesExc[TypeError]:
    return pytest.raises(TypeError, match=r"got torch\.\w+; convert .* image\.float\(\) / 255")


@pytest.mark.parametrize("dtype", INTEGERS, ids=str)
@pytest.mark.parametrize("sample", PLANE)
def test_a_sampling_function_refuses_an_integer_image(sample: Sample, dtype: torch.dtype) -> None:
    with refused():
        sample(torch.ones(1, 1, 6, 6, dtype=dtype), GRID)


@pytest.mark.parametrize("dtype", INTEGERS, ids=str)
@pytest.mark.parametrize("sampler", SAMPLERS, ids=lambda sampler: type(sampler).__name__)
def test_a_sampler_refuses_an_integer_image(sampler: Sampler, dtype: torch.dtype) -> None:
    image = torch.ones(1, 1, 6, 6, dtype=dtype)
    with refused():
        sampler(image, GRID)
    with refused():
        sampler.sample_each(image, GRID[:, None])


@pytest.mark.parametrize("dtype", INTEGERS, ids=str)
def test_an_integer_volume_is_refused(dtype: torch.dtype) -> None:
    volume, grid = torch.ones(1, 1, 4, 4, 4, dtype=dtype), torch.zeros(1, 2, 2, 2, 3)
    for sample in (sampling.trilinear, Trilinear()):
        with refused():
            sample(volume, grid)


def test_integer_thetas_grids_and_images_of_ink_are_refused() -> None:
    with refused():
        affine.grid(torch.ones(1, 6, dtype=torch.int64), (4, 5))
    with refused():
        sampling.bilinear(torch.ones(1, 1, 6, 6), GRID.long())
    with refused():
        moments.moments(torch.ones(1, 1, 6, 6, dtype=torch.uint8))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_every_float_is_taken(dtype: torch.dtype) -> None:
    assert sampling.bilinear(torch.ones(1, 1, 6, 6, dtype=dtype), GRID).dtype == dtype
    assert upcast(torch.ones(1, dtype=dtype)).is_floating_point()

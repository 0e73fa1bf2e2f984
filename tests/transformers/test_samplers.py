import inspect
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from stn_lightning.geometry import sampling
from stn_lightning.transformers import Bicubic, Bilinear, Nearest, Sampler, Trilinear

IMAGE, VOLUME = torch.rand(2, 3, 5, 7), torch.rand(2, 3, 4, 5, 6)
PLANE, SPACE = 2.4 * torch.rand(2, 4, 6, 2) - 1.2, 2.4 * torch.rand(2, 3, 4, 6, 3) - 1.2


@pytest.mark.parametrize("padding", ["zeros", "border", "reflection", [0.3, 0.6, 0.9]], ids=str)
@pytest.mark.parametrize(
    ("sampler", "function", "image", "grid"),
    [
        (Bilinear, sampling.bilinear, IMAGE, PLANE),
        (Nearest, sampling.nearest, IMAGE, PLANE),
        (Bicubic, sampling.bicubic, IMAGE, PLANE),
        (Trilinear, sampling.trilinear, VOLUME, SPACE),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_sampler_is_its_function_with_its_padding(
    sampler: type[Sampler],
    function: Callable[..., Tensor],
    image: Tensor,
    grid: Tensor,
    padding: sampling.Padding,
) -> None:
    assert torch.equal(sampler(padding)(image, grid), function(image, grid, padding))


def test_outside_are_zeros_as_in_the_paper_unless_told_otherwise() -> None:
    assert not Bilinear()(IMAGE, PLANE + 10).any()


def test_an_unknown_padding_is_refused_with_advice() -> None:
    unchecked = inspect.unwrap(
        Bilinear.__init__
    )  # under test, the type checker would be first to refuse
    with pytest.raises(
        ValueError,
        match='padding "edge" is unknown; take "zeros", "border", "reflection", or a colour',
    ):
        unchecked(Bilinear.__new__(Bilinear), "edge")


def test_a_colour_that_does_not_fit_the_channels_is_refused_with_advice() -> None:
    with pytest.raises(
        ValueError,
        match=r"a padding colour of 2 numbers for an image of 3 channels; give one number for each",
    ):
        Bilinear([0.1, 0.2])(IMAGE, PLANE)

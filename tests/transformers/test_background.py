"""Background is background: one argument says what lies outside of a normalised image."""

import pytest
import torch
from torch import Tensor

from stn_lightning.geometry import affine
from stn_lightning.transformers import (
    Affine,
    Antialiased,
    Bicubic,
    Bilinear,
    FullyConnectedLocalisation,
    Nearest,
    ParallelTransformer,
    SpatialTransformer,
    WideGradient,
)
from tests.transformers.doubles import At

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
BLACK = [-mean / std for mean, std in zip(MEAN, STD, strict=True)]
"""What Normalize makes of 0."""
PARTLY_OUTSIDE = [1.3, 0.4, 0.7, -0.3, 1.2, -0.5]


def normalised(image: Tensor) -> Tensor:
    return (image - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]


SAMPLERS = {
    "bilinear": (Bilinear(), Bilinear(BLACK)),
    "nearest": (Nearest(), Nearest(BLACK)),
    "bicubic": (Bicubic(), Bicubic(BLACK)),
    "antialiased": (Antialiased(), Antialiased(BLACK)),
    "wide": (WideGradient(), WideGradient(Bilinear(BLACK))),
}


@pytest.mark.parametrize("name", SAMPLERS)
def test_warping_a_normalised_image_is_normalising_the_warped_image(name: str) -> None:
    plain, coloured = SAMPLERS[name]
    image, grid = torch.rand(2, 3, 20, 20), affine.grid(torch.tensor([PARTLY_OUTSIDE] * 2), (9, 9))
    torch.testing.assert_close(
        coloured(normalised(image), grid), normalised(plain(image, grid)), rtol=0, atol=2e-5
    )
    grids = torch.stack([grid, 2.5 * grid], dim=1)
    torch.testing.assert_close(
        coloured.sample_each(normalised(image), grids),
        normalised(plain.sample_each(image, grids)),
        rtol=0,
        atol=2e-5,
    )


@pytest.mark.parametrize("name", ["bilinear", "bicubic", "antialiased", "wide"])
def test_theta_gets_the_gradient_that_it_would_get_without_normalisation(name: str) -> None:
    plain, coloured = SAMPLERS[name]
    image, weights, gradients = torch.rand(1, 3, 20, 20), torch.rand(1, 3, 9, 9), []
    for sampler, original, scale in (
        (plain, image, torch.tensor(STD)),
        (coloured, normalised(image), torch.ones(3)),
    ):
        theta = torch.tensor([PARTLY_OUTSIDE]).requires_grad_()
        (
            sampler(original, affine.grid(theta, (9, 9))) * weights / scale[:, None, None]
        ).sum().backward()
        gradients.append(theta.grad)
    torch.testing.assert_close(*gradients, rtol=1e-3, atol=1e-3)


def test_a_transformer_that_has_left_a_normalised_image_shows_its_background_and_not_grey() -> None:
    image = normalised(torch.zeros(2, 3, 16, 16))
    for sampler, is_background in ((Bilinear(BLACK), True), (Bilinear(), False)):
        outside = [1.0, 0, 5, 0, 1, 0]
        alone = SpatialTransformer(
            FullyConnectedLocalisation([8]), Affine(), (8, 8), sampler, At(outside)
        )(image)
        pair = ParallelTransformer(
            FullyConnectedLocalisation([8]), Affine(), 2, (8, 8), sampler, At(outside)
        )(image)
        for seen in (alone, pair[:, 0], pair[:, 1]):
            assert torch.allclose(seen, image[:, :, :8, :8], rtol=0, atol=1e-6) is is_background

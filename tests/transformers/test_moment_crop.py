import pytest
import torch
from torch import Tensor

from stn_lightning.geometry import affine
from stn_lightning.geometry.moments import moments
from stn_lightning.transformers import (
    Affine,
    Affine3D,
    Attention,
    BoundedFamily,
    ComposedTransformer,
    Family,
    FullyConnectedLocalisation,
    MomentCrop,
    MomentLocalisation,
    Similarity,
    SpatialTransformer,
    ThinPlateSpline,
    Translation,
    Trilinear,
)


def digits() -> Tensor:
    """Rectangles of ink, each of another place and size, on 40 x 40 pixels."""
    image = torch.zeros(3, 1, 40, 40)
    image[0, :, 4:16, 6:12] = 1
    image[1, :, 10:34, 16:30] = 0.5
    image[2, :, 24:34, 20:36] = 1
    return image


def localisation() -> MomentLocalisation:
    return MomentLocalisation(FullyConnectedLocalisation([4]), hidden_size=4)


@pytest.mark.parametrize("family", [Affine(), Similarity(), Attention()])
def test_the_first_crop_lies_around_the_ink_in_proportion_to_its_extent(family: Family) -> None:
    transformer = SpatialTransformer(localisation(), family, (28, 28), start=MomentCrop(2.0))
    x, y, extent = moments(digits())[:, :3].unbind(1)
    expected = affine.from_attention(torch.stack([2 * extent, x, y], 1))
    grid = transformer.warp(digits()).grid
    torch.testing.assert_close(grid, affine.grid(expected, (28, 28)))


def test_in_its_own_crop_the_ink_asks_for_no_correction() -> None:
    once, twice = (
        ComposedTransformer(localisation(), Affine(), steps, (200, 200), start=MomentCrop())
        for steps in (1, 2)
    )
    torch.testing.assert_close(
        twice.warp(digits()).theta, once.warp(digits()).theta, rtol=0, atol=0.01
    )


def test_it_goes_on_to_learn() -> None:
    transformer = SpatialTransformer(localisation(), Affine(), (28, 28), start=MomentCrop())
    transformer(digits()).square().sum().backward()
    gradient = transformer.regression.linear.weight.grad
    assert gradient is not None
    assert gradient.abs().sum() > 0


def test_in_a_volume_it_follows_the_ink_along_three_axes() -> None:
    volume = torch.zeros(1, 1, 20, 24, 28)
    volume[:, :, 2:8, 10:16, 16:24] = 1
    transformer = SpatialTransformer(
        localisation(), Affine3D(), (8, 8, 8), Trilinear(), MomentCrop(2.0)
    )
    x, y, z, extent = moments(volume)[0, :4].tolist()
    expected = [2 * extent, 0, 0, x, 0, 2 * extent, 0, y, 0, 0, 2 * extent, z]
    torch.testing.assert_close(transformer.warp(volume).theta, torch.tensor([expected]))


@pytest.mark.parametrize(
    "family", [Translation(0.5), ThinPlateSpline(), BoundedFamily(Affine(), -2.0, 2.0)]
)
def test_a_family_that_does_not_scale_with_theta_is_refused_by_name(family: Family) -> None:
    with pytest.raises(ValueError, match=f"not {type(family).__name__}; take Affine"):
        SpatialTransformer(localisation(), family, (28, 28), start=MomentCrop())


def test_features_without_moments_are_refused() -> None:
    transformer = SpatialTransformer(
        FullyConnectedLocalisation([5]), Affine(), (28, 28), start=MomentCrop()
    )
    with pytest.raises(ValueError, match="the 6 moments of the ink, not 5 features"):
        transformer(digits())


def test_a_crop_without_a_size_is_refused() -> None:
    with pytest.raises(ValueError, match=r"scale 0\.0 of a crop must be"):
        MomentCrop(0.0)

import copy
import io
import math
import pickle

import pytest
import torch
from torch import Tensor, nn

from stn_lightning.geometry import affine, lattice, sampling
from stn_lightning.transformers import (
    Affine,
    Affine3D,
    Attention,
    Bicubic,
    Bilinear,
    ConvolutionalLocalisation,
    Family,
    FullyConnectedLocalisation,
    Nearest,
    NoisyIdentity,
    Projective,
    Sampler,
    Similarity,
    SpatialTransformer,
    ThinPlateSpline,
    Translation,
    Trilinear,
)
from tests.transformers.doubles import At, Script, awaken

FAMILIES: list[Family] = [
    Translation(),
    Attention(),
    Similarity(),
    Affine(),
    Projective(),
    ThinPlateSpline(),
]

all_families = pytest.mark.parametrize("family", FAMILIES, ids=lambda family: type(family).__name__)


def transformer(
    family: Family | None = None,
    size: tuple[int, ...] | None = None,
    sampler: Sampler | None = None,
) -> SpatialTransformer:
    return SpatialTransformer(FullyConnectedLocalisation([8]), family or Affine(), size, sampler)


def awake(family: Family | None = None, image: Tensor | None = None) -> SpatialTransformer:
    network = transformer(family)
    awaken(network, torch.rand(1, 3, 10, 12) if image is None else image)
    return network


# At the start


@pytest.mark.parametrize("padding", ["zeros", "border", "reflection", [0.5, 0.2, 0.1]], ids=str)
@pytest.mark.parametrize("sampler", [Bilinear, Nearest, Bicubic])
@all_families
def test_an_untrained_transformer_returns_its_image_bit_for_bit(
    family: Family, sampler: type[Sampler], padding: sampling.Padding
) -> None:
    image = torch.rand(2, 3, 28, 45)
    assert torch.equal(transformer(family, sampler=sampler(padding))(image), image)


def test_an_untrained_transformer_with_convolutions_returns_its_image_bit_for_bit() -> None:
    image = torch.rand(2, 1, 42, 42)
    assert torch.equal(SpatialTransformer(ConvolutionalLocalisation(), Affine())(image), image)


def test_an_untrained_transformer_returns_its_volume_bit_for_bit() -> None:
    content = torch.rand(2, 1, 5, 6, 7)
    assert torch.equal(transformer(Affine3D(), sampler=Trilinear())(content), content)


def test_the_first_theta_is_the_start_whatever_the_image_shows() -> None:
    network = SpatialTransformer(
        FullyConnectedLocalisation([8]), Attention(), start=At([0.5, 0.25, -0.25])
    )
    assert network.warp(100 * torch.randn(3, 1, 9, 9)).theta.tolist() == [[0.5, 0.25, -0.25]] * 3
    disturbed = SpatialTransformer(
        FullyConnectedLocalisation([8]), Affine(), start=NoisyIdentity(0.1, seed=5)
    )
    assert torch.equal(
        disturbed.warp(torch.rand(1, 1, 9, 9)).theta, NoisyIdentity(0.1, seed=5).theta(Affine(), 1)
    )


def test_the_regression_starts_with_zero_weights_and_biases() -> None:
    network = transformer()
    network(torch.rand(1, 1, 9, 9))
    linear = network.regression.linear
    assert linear.weight.shape == (6, 8)
    assert not linear.weight.any()
    assert not linear.bias.any()


def test_gradients_reach_the_regression_at_once_and_the_localisation_once_it_is_not_zero() -> None:
    network, image = transformer(), torch.rand(2, 1, 9, 9)
    network(image).square().sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in network.regression.parameters())
    assert all(p.grad is not None and not p.grad.any() for p in network.localisation.parameters())
    nn.init.normal_(network.regression.linear.weight, std=0.01)
    network(image).square().sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in network.localisation.parameters())


# The warp


@all_families
def test_a_warp_is_the_sampler_at_the_familys_grid(family: Family) -> None:
    image = torch.rand(2, 3, 10, 12)
    network = awake(family)
    warp = network.warp(image)
    assert torch.equal(warp.grid, family(warp.theta, (10, 12)))
    assert torch.equal(warp.image, sampling.bilinear(image, warp.grid))
    assert torch.equal(network(image), warp.image)
    assert not torch.equal(warp.theta[0], warp.theta[1])  # each image has its own
    assert not torch.equal(warp.image, image)


def test_every_channel_is_warped_alike() -> None:
    image = torch.rand(2, 3, 10, 12)
    warp = awake().warp(image)
    for channel in range(3):
        alone = sampling.bilinear(image[:, channel : channel + 1], warp.grid)
        torch.testing.assert_close(warp.image[:, channel : channel + 1], alone, rtol=0, atol=0)


@pytest.mark.parametrize("size", [(1, 1), (5, 9), (31, 40)], ids=str)
@all_families
def test_the_output_size_is_free(family: Family, size: tuple[int, int]) -> None:
    image = torch.rand(2, 3, 10, 12)
    warp = transformer(family, size).warp(image)
    assert warp.image.shape == (2, 3, *size)
    expected = lattice.points(size, image).expand(
        2, *size, 2
    )  # the whole image in another resolution
    assert torch.equal(warp.grid, expected)


def test_the_output_size_of_a_volume_is_free() -> None:
    warp = transformer(Affine3D(), (2, 3, 4), Trilinear()).warp(torch.rand(2, 1, 5, 6, 7))
    assert warp.image.shape == (2, 1, 2, 3, 4)
    assert warp.grid.shape == (2, 2, 3, 4, 3)


def test_channels_last_stays_channels_last() -> None:
    image = torch.rand(2, 3, 10, 12).contiguous(memory_format=torch.channels_last)
    assert awake()(image).is_contiguous(memory_format=torch.channels_last)


def quarter_turn_and_shift() -> Tensor:
    return torch.tensor([[0.0, -1, 0.5, 1, 0, 0.25]])


def test_a_transformer_given_the_inverse_distortion_restores_the_image_bit_for_bit() -> None:
    original = torch.zeros(1, 1, 16, 16)
    original[:, :, 5:9, 6:11] = torch.rand(4, 5)  # far enough from the border to stay inside
    distortion = quarter_turn_and_shift()
    distorted = sampling.bilinear(original, affine.grid(distortion, (16, 16)))
    assert not torch.equal(distorted, original)
    restoring = SpatialTransformer(
        FullyConnectedLocalisation([8]), Affine(), start=At(affine.inverse(distortion)[0].tolist())
    )
    assert torch.equal(restoring(distorted), original)


def test_a_transformer_given_the_inverse_of_any_affine_distortion_restores_a_smooth_image() -> None:
    x, y = lattice.points((60, 60), torch.empty(0)).unbind(-1)
    original = (
        torch.exp(-12 * (x.square() + (y - 0.2).square()))
        + torch.exp(-12 * ((x - 0.3).square() + y.square()))
    )[None, None]
    cos, sin = math.cos(0.6), math.sin(0.6)
    distortion = torch.tensor([[1.2 * cos, -1.1 * sin, 0.1, 1.2 * sin, 1.1 * cos, -0.15]])
    distorted = sampling.bicubic(original, affine.grid(distortion, (60, 60)))
    assert (distorted - original).abs().max() > 0.4
    start = At(affine.inverse(distortion)[0].tolist())
    restored = SpatialTransformer(
        FullyConnectedLocalisation([8]), Affine(), None, Bicubic(), start
    )(distorted)
    torch.testing.assert_close(restored, original, rtol=0, atol=0.02)


# Precision


@all_families
def test_theta_is_float32_and_exact_under_bf16_autocast(family: Family) -> None:
    image = torch.rand(2, 1, 28, 28)
    network = SpatialTransformer(ConvolutionalLocalisation(4, 5, 6), family, (224, 224))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert network.localisation(image).dtype == torch.bfloat16  # or this test tests nothing
        warp = network.warp(image)
    assert warp.theta.dtype == warp.grid.dtype == warp.image.dtype == torch.float32
    assert warp.theta.tolist() == torch.tensor([family.identity] * 2).tolist()
    assert torch.equal(warp.grid, lattice.points((224, 224), image).expand(2, -1, -1, -1))


def test_a_trained_regression_is_not_rounded_under_bf16_autocast() -> None:
    features = [0.1 + 1 / 512, -0.3, 0.7, 0.123, -0.456, 0.789]
    network, image = SpatialTransformer(Script(features), Affine()), torch.rand(1, 1, 9, 9)
    network(image)
    nn.init.eye_(network.regression.linear.weight)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        theta = network.warp(image).theta
    torch.testing.assert_close(
        theta, torch.tensor([features]) + torch.tensor(Affine.identity), rtol=0, atol=1e-7
    )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64], ids=str)
@all_families
def test_a_module_in_another_precision_starts_exact_and_returns_that_precision(
    family: Family, dtype: torch.dtype
) -> None:
    image = torch.rand(2, 1, 28, 45).to(dtype)
    network = transformer(copy.deepcopy(family)).to(dtype)
    restored = network(image)
    assert restored.dtype == dtype
    assert torch.equal(restored, image)


# Checkpoints and copies


@all_families
def test_a_checkpoint_loads_into_a_transformer_that_never_ran(family: Family) -> None:
    trained, image = awake(family), torch.rand(2, 3, 10, 12)
    file = io.BytesIO()
    torch.save(trained.state_dict(), file)
    file.seek(0)
    fresh = transformer(copy.deepcopy(family))
    fresh.load_state_dict(torch.load(file, weights_only=True))
    assert torch.equal(fresh(image), trained(image))
    assert torch.equal(
        fresh(image), trained(image)
    )  # the second call still has what the first one loaded


def test_a_checkpoint_holds_weights_and_nothing_that_the_constructor_knows() -> None:
    network = awake(ThinPlateSpline())
    names = {"localisation.layers.0", "regression.linear"}
    assert set(network.state_dict()) == {
        f"{name}.{kind}" for name in names for kind in ("weight", "bias")
    }


def test_a_checkpoint_of_a_transformer_that_never_ran_can_be_loaded_too() -> None:
    image = torch.rand(2, 3, 10, 12)
    network = transformer()
    network.load_state_dict(transformer().state_dict())
    assert torch.equal(network(image), image)


@all_families
def test_copies_and_pickles_behave_like_the_original(family: Family) -> None:
    image = torch.rand(2, 3, 10, 12)
    network = awake(family)
    for other in (copy.deepcopy(network), pickle.loads(pickle.dumps(network))):
        assert torch.equal(other(image), network(image))
        nn.init.zeros_(other.regression.linear.weight)
        assert network.regression.linear.weight.any()  # nothing is shared


def test_copies_and_pickles_of_a_transformer_that_never_ran_start_at_the_identity() -> None:
    image = torch.rand(2, 3, 10, 12)
    network = transformer()
    for other in (copy.deepcopy(network), pickle.loads(pickle.dumps(network))):
        assert torch.equal(other(image), image)


# Training


def blobs(n: int) -> Tensor:
    """Spots of light, each at a place of its own."""
    generator = torch.Generator().manual_seed(0)
    places = torch.rand(n, 2, generator=generator) - 0.5
    apart = lattice.points((16, 16), places)[None] - places[:, None, None]
    return torch.exp(-8 * apart.square().sum(-1))[:, None]


def test_it_trains_in_a_plain_sequential_loop() -> None:
    torch.manual_seed(0)
    image, label = blobs(16), torch.arange(16) % 4
    spatial = transformer()
    network = nn.Sequential(spatial, nn.Flatten(), nn.Linear(256, 4))
    network(image)
    optimiser = torch.optim.SGD(network.parameters(), lr=0.1)
    losses = []
    for _ in range(10):
        optimiser.zero_grad()
        loss = nn.functional.cross_entropy(network(image), label)
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] - 0.01
    assert spatial.regression.linear.weight.any()  # the transformer itself has learnt


def test_it_learns_to_bring_what_it_sees_to_the_middle() -> None:
    torch.manual_seed(0)
    image = blobs(32)
    x, y = lattice.points((16, 16), image).unbind(-1)
    centred = torch.exp(-8 * (x.square() + y.square())).expand_as(image)
    network = SpatialTransformer(FullyConnectedLocalisation([32]), Translation())
    network(image)
    optimiser = torch.optim.Adam(network.parameters(), lr=0.01)
    losses = []
    for _ in range(100):
        optimiser.zero_grad()
        loss = nn.functional.mse_loss(network(image), centred)
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 20

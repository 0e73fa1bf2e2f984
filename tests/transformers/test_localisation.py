import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from stn_lightning.geometry.moments import moments
from stn_lightning.transformers import (
    ConvolutionalLocalisation,
    FullyConnectedLocalisation,
    HeatmapLocalisation,
    MomentLocalisation,
    VolumeLocalisation,
)


def test_the_fully_connected_one_has_the_papers_three_layers_of_32() -> None:
    localisation = FullyConnectedLocalisation()
    assert localisation(torch.rand(4, 1, 28, 28)).shape == (4, 32)
    assert [p.shape for p in localisation.parameters() if p.dim() == 2] == [
        (32, 784),
        (32, 32),
        (32, 32),
    ]


def test_the_fully_connected_one_is_its_layers_with_relu_between() -> None:
    localisation, image = FullyConnectedLocalisation([30, 20]), torch.rand(3, 2, 6, 7)
    localisation(image)
    first, second = localisation.layers
    expected = nn.Sequential(nn.Flatten(), first, nn.ReLU(), second, nn.ReLU())(image)
    torch.testing.assert_close(localisation(image), expected)
    assert expected.any()


def test_the_convolutional_one_is_halving_two_convolutions_and_a_layer_of_20() -> None:
    localisation, image = ConvolutionalLocalisation(), torch.rand(3, 1, 42, 42)
    assert localisation(image).shape == (3, 20)
    assert [p.shape for p in localisation.parameters() if p.dim() > 1] == [
        (20, 1, 5, 5),
        (20, 20, 5, 5),
        (20, 20 * 4 * 4),
    ]
    parts = [
        nn.AvgPool2d(2),
        localisation.conv1,
        nn.MaxPool2d(2),
        nn.ReLU(),
        localisation.conv2,
        nn.ReLU(),
        nn.Flatten(),
        localisation.fc,
    ]
    torch.testing.assert_close(localisation(image), nn.Sequential(*parts, nn.ReLU())(image))


@pytest.mark.parametrize("shape", [(2, 1, 28, 28), (2, 3, 60, 44)], ids=str)
def test_channels_and_size_are_learnt_from_the_first_image(shape: tuple[int, ...]) -> None:
    assert ConvolutionalLocalisation(num_filters=4, hidden_size=7)(torch.rand(shape)).shape == (
        2,
        7,
    )
    assert FullyConnectedLocalisation([9])(torch.rand(shape)).shape == (2, 9)


def test_the_fully_connected_one_takes_volumes() -> None:
    assert FullyConnectedLocalisation([9])(torch.rand(2, 1, 4, 5, 6)).shape == (2, 9)


@pytest.mark.parametrize("network", [FullyConnectedLocalisation, ConvolutionalLocalisation])
def test_a_checkpoint_loads_into_one_that_never_ran(network: type[nn.Module]) -> None:
    trained, fresh, image = network(), network(), torch.rand(2, 1, 28, 28)
    expected = trained(image)
    fresh.load_state_dict(trained.state_dict())
    assert torch.equal(fresh(image), expected)


def test_weights_of_a_checkpoint_are_not_replaced_by_zeros() -> None:
    trained, fresh = (
        HeatmapLocalisation(nn.Identity(), 2, activation_weight=2.0) for _ in range(2)
    )
    image = torch.rand(2, 3, 6, 6)
    trained(image)
    nn.init.normal_(trained.conv.weight)
    fresh.load_state_dict(trained.state_dict())
    assert torch.equal(fresh(image), trained(image))
    assert torch.equal(fresh.conv.weight, trained.conv.weight)


def hot_places(image: Tensor, heat: float) -> Tensor:
    """Where the image itself, times `heat`, is hot: one (x, y) for each channel."""
    localisation = HeatmapLocalisation(nn.Identity(), image.shape[1], sharpness=2.0)
    localisation(image.float())
    with torch.no_grad():
        localisation.conv.weight.copy_(heat / 2 * torch.eye(image.shape[1])[:, :, None, None])
        localisation.conv.bias.zero_()  # type: ignore[union-attr]
    return localisation.to(image.dtype)(image).unflatten(1, (-1, 2)).detach()


def test_convention_a_heat_map_says_the_centre_of_its_hot_pixel() -> None:
    image = torch.zeros(2, 2, 6, 9)
    for original, channel, row, column in ((0, 0, 0, 0), (0, 1, 5, 3), (1, 0, 2, 8), (1, 1, 3, 4)):
        image[original, channel, row, column] = 1
    expected = [[[-8 / 9, -5 / 6], [-2 / 9, 5 / 6]], [[8 / 9, -1 / 6], [0, 1 / 6]]]
    torch.testing.assert_close(hot_places(image, 100), torch.tensor(expected))


def test_a_cold_heat_map_says_the_middle() -> None:
    torch.testing.assert_close(hot_places(torch.rand(3, 2, 5, 8), 0), torch.zeros(3, 2, 2))


def test_each_map_may_have_a_sharpness_of_its_own() -> None:
    image = torch.rand(2, 1, 5, 6)
    both = HeatmapLocalisation(nn.Identity(), 2, sharpness=(3.0, 0.5))
    both(image)
    for i, sharpness in enumerate([3.0, 0.5]):
        one = HeatmapLocalisation(nn.Identity(), 1, sharpness)
        one.load_state_dict({key: value[i : i + 1] for key, value in both.state_dict().items()})
        torch.testing.assert_close(one(image), both(image)[:, 2 * i : 2 * i + 2])


@pytest.mark.parametrize(
    ("numbers", "message"),
    [
        ([1.0, 2.0, 3.0], "is a list of length 3 for 2 maps; give one number for all, or a list"),
        ([1.0, -2.0], "give finite numbers of 0 or more"),
        (float("nan"), "give finite numbers of 0 or more"),
        (float("inf"), "give finite numbers of 0 or more"),
    ],
)
@pytest.mark.parametrize("name", ["sharpness", "activation_weight"])
def test_other_numbers_for_maps_are_refused(
    name: str, numbers: float | list[float], message: str
) -> None:
    with pytest.raises(ValueError, match=rf"{name} .*{message}"):
        HeatmapLocalisation(nn.Identity(), 2, **{name: numbers})  # type: ignore[arg-type]


def test_what_moves_by_a_pixel_moves_its_place_by_a_pixel() -> None:
    image = torch.zeros(1, 1, 12, 20)
    image[..., 4:7, 5:9] = torch.rand(3, 4) + 1
    places = hot_places(torch.cat([image, image.roll((2, -3), (2, 3))]), 60)
    torch.testing.assert_close(places[1] - places[0], torch.tensor([[-3 * 2 / 20, 2 * 2 / 12]]))


def test_places_follow_a_loop_over_pixels() -> None:
    image, expected = (
        torch.rand(2, 1, 3, 4, dtype=torch.float64),
        torch.zeros(2, 1, 2, dtype=torch.float64),
    )
    for original, values in enumerate(image[:, 0]):
        weights = (5 * values).exp() / (5 * values).exp().sum()
        for row in range(3):
            for column in range(4):
                expected[original, 0] += weights[row, column] * torch.tensor(
                    [(2 * column + 1 - 4) / 4, (2 * row + 1 - 3) / 3]
                )
    torch.testing.assert_close(hot_places(image, 5), expected)


def test_activations_give_the_first_places() -> None:
    features = 0.1 * torch.rand(2, 16, 7, 7)
    features[0, :, 1, 5] += 1  # all channels, at x = 4 / 7 and y = -4 / 7
    features[1, :, 6, 0] += 1
    localisation = HeatmapLocalisation(nn.Identity(), 2, activation_weight=3.0)
    places = localisation(features).unflatten(1, (2, 2))
    expected = torch.tensor([[4 / 7, -4 / 7], [-6 / 7, 6 / 7]])
    torch.testing.assert_close(places, expected[:, None].expand(2, 2, 2), rtol=0, atol=0.01)
    torch.testing.assert_close(localisation(5 * features + 2).unflatten(1, (2, 2)), places)


def test_equal_activations_leave_places_in_the_middle() -> None:
    localisation = HeatmapLocalisation(nn.Identity(), 1, activation_weight=2.0)
    places = localisation(torch.full((1, 4, 5, 5), 0.5))
    torch.testing.assert_close(places, torch.zeros(1, 2), rtol=0, atol=1e-5)


def test_a_gradient_passes_through_the_convolution_only() -> None:
    features = torch.rand(2, 4, 5, 5, requires_grad=True)
    localisation = HeatmapLocalisation(nn.Identity(), 1, activation_weight=2.0)
    localisation(features).sum().backward()
    assert features.grad is not None
    assert not features.grad.any()  # the convolution begins at 0
    assert localisation.conv.weight.grad is not None
    assert localisation.conv.weight.grad.abs().min() > 0


def test_gradients_of_places_pass_gradcheck() -> None:
    localisation, image = (
        HeatmapLocalisation(nn.Identity(), 3, sharpness=3.0, shrink=2),
        torch.rand(2, 2, 8, 6, dtype=torch.float64, requires_grad=True),
    )
    localisation(image.float())
    assert torch.autograd.gradcheck(localisation.double(), image)


def test_places_are_float32_under_bf16_autocast() -> None:
    localisation, image = (
        HeatmapLocalisation(nn.Conv2d(3, 4, 3, 2, 1), 5, 2.0),
        torch.rand(2, 3, 40, 40),
    )
    expected = localisation(image)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        places = localisation(image)
    assert places.dtype == torch.float32
    assert places.shape == (2, 10)
    torch.testing.assert_close(places, expected, rtol=0, atol=0.02)


@pytest.mark.parametrize("side", [30, 29])
def test_blocks_of_a_volume_are_a_stride(side: int) -> None:
    """Convolution of 3 blocks of 2 voxels a side: one of 6 voxels with a stride of 2, on the volume
    filled up with zeros.
    """
    localisation, volume = (
        VolumeLocalisation(num_filters=4, shrink=1, block=2, kernel_size=3),
        torch.rand(2, 1, side, side, side),
    )
    seen: list[torch.Tensor] = []
    localisation.conv1.register_forward_hook(lambda *call: seen.append(call[2]))
    assert localisation(volume).shape == (2, 32)
    weight = localisation.conv1.weight  # (4, 8, 3, 3, 3)
    apart = weight.unflatten(1, (2, 2, 2)).permute(0, 4, 1, 5, 2, 6, 3).reshape(4, 1, 6, 6, 6)
    filled = functional.pad(volume, [0, 30 - side] * 3)
    torch.testing.assert_close(
        seen[0],
        functional.conv3d(filled, apart, localisation.conv1.bias, stride=2),
        atol=1e-5,
        rtol=0,
    )


def test_a_volume_is_averaged_over_cubes() -> None:
    volume = torch.rand(2, 1, 28, 28, 28)
    localisation = VolumeLocalisation(num_filters=4, shrink=1, kernel_size=3)
    halved = VolumeLocalisation(num_filters=4, shrink=2, kernel_size=3)
    small = functional.avg_pool3d(volume, 2)
    features = localisation(small)
    halved(volume)
    halved.load_state_dict(localisation.state_dict())
    assert torch.equal(halved(volume), features)


@pytest.mark.parametrize("size", [(28, 28), (20, 20, 20)])
def test_moments_stand_beside_what_another_localisation_finds(size: tuple[int, ...]) -> None:
    inner = (
        ConvolutionalLocalisation(hidden_size=5)
        if len(size) == 2
        else VolumeLocalisation(hidden_size=5, kernel_size=3)
    )
    localisation, image = MomentLocalisation(inner, hidden_size=7), torch.rand(3, 1, *size)
    features, places = localisation(image), moments(image)
    assert torch.equal(features[:, 7:], places)
    seen = functional.linear(
        torch.cat([inner(image), places], 1), localisation.fc.weight, localisation.fc.bias
    )
    assert torch.equal(features[:, :7], seen.relu())


def test_moments_are_exact_under_autocast() -> None:
    localisation, image = (
        MomentLocalisation(FullyConnectedLocalisation([4])),
        torch.rand(3, 1, 28, 28),
    )
    localisation(image)
    with torch.autocast("cpu", torch.bfloat16):
        features = localisation(image)
    assert torch.equal(features[:, 64:], moments(image))


@pytest.mark.parametrize("wrong", [{"shrink": 0}, {"block": 0}])
def test_cubes_without_voxels_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="give 1 or more"):
        VolumeLocalisation(**wrong)

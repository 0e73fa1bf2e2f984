import pytest
import torch
from torch import nn

from stn_lightning.transformers import ConvolutionalLocalisation, FullyConnectedLocalisation


def test_the_fully_connected_one_has_the_papers_three_layers_of_32() -> None:
    localisation = FullyConnectedLocalisation()
    assert localisation(torch.rand(4, 1, 28, 28)).shape == (4, 32)
    assert [p.shape for p in localisation.parameters() if p.dim() == 2] == [(32, 784), (32, 32), (32, 32)]


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
    assert [p.shape for p in localisation.parameters() if p.dim() > 1] == [(20, 1, 5, 5), (20, 20, 5, 5), (20, 20 * 4 * 4)]
    parts = [nn.AvgPool2d(2), localisation.conv1, nn.MaxPool2d(2), nn.ReLU(), localisation.conv2, nn.ReLU(), nn.Flatten(), localisation.fc]
    torch.testing.assert_close(localisation(image), nn.Sequential(*parts, nn.ReLU())(image))


@pytest.mark.parametrize("shape", [(2, 1, 28, 28), (2, 3, 60, 44)], ids=str)
def test_channels_and_size_are_learnt_from_the_first_image(shape: tuple[int, ...]) -> None:
    assert ConvolutionalLocalisation(filters=4, units=7)(torch.rand(shape)).shape == (2, 7)
    assert FullyConnectedLocalisation([9])(torch.rand(shape)).shape == (2, 9)


def test_the_fully_connected_one_takes_volumes() -> None:
    assert FullyConnectedLocalisation([9])(torch.rand(2, 1, 4, 5, 6)).shape == (2, 9)


@pytest.mark.parametrize("network", [FullyConnectedLocalisation, ConvolutionalLocalisation])
def test_a_checkpoint_loads_into_one_that_never_ran(network: type[nn.Module]) -> None:
    trained, fresh, image = network(), network(), torch.rand(2, 1, 28, 28)
    expected = trained(image)
    fresh.load_state_dict(trained.state_dict())
    assert torch.equal(fresh(image), expected)

"""Small convolutional networks: their layers, their options and their parameters."""

from typing import Any

import pytest
import torch
from jsonargparse import ArgumentParser
from torch import nn

from stn_lightning.backbones import PlainConvNet, SmallConvNet

NETWORK_M = """
class_path: stn_lightning.backbones.MultiCropClassifier
init_args:
  num_classes: 10
  dropout: 0.0
  feature_extractor:
    class_path: stn_lightning.backbones.SmallConvNet
    init_args:
      num_filters: [32, 32, 64, 64, 64]
      kernel_sizes: [5, 3, 3, 3, 3]
      strides: [2, 1, 2, 1, 1]
      bias: false
"""


def test_a_small_network_is_its_convolutions_norms_and_rectifiers() -> None:
    network = SmallConvNet((4, 6), (2, 1), (5, 3), bias=False).eval()
    image = torch.rand(2, 3, 28, 20)
    features = network(image)
    assert features.shape == (2, 6, 14, 10)
    state = network.state_dict()
    plain = nn.Sequential(
        nn.Conv2d(3, 4, 5, 2, 2, bias=False),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Conv2d(4, 6, 3, 1, 1, bias=False),
        nn.BatchNorm2d(6),
        nn.ReLU(),
    ).eval()
    plain.load_state_dict({name.removeprefix("layers."): value for name, value in state.items()})
    torch.testing.assert_close(features, plain(2 * image - 1))


@pytest.mark.parametrize(
    ("strides", "shape"), [(2, (2, 8, 4, 4)), ([1, 2, 1], (2, 8, 14, 14)), (1, (2, 8, 28, 28))]
)
def test_a_small_network_shrinks_an_image_by_its_strides(
    strides: Any, shape: tuple[int, ...]
) -> None:
    assert SmallConvNet((4, 8, 8), strides)(torch.rand(2, 1, 28, 28)).shape == shape


def test_convolutions_have_a_bias_where_that_is_asked_for() -> None:
    with_bias, without = (SmallConvNet((4, 8), bias=bias) for bias in (True, False))
    with_bias(torch.rand(2, 1, 8, 8))
    without(torch.rand(2, 1, 8, 8))
    assert set(with_bias.state_dict()) - set(without.state_dict()) == {
        "layers.0.bias",
        "layers.3.bias",
    }


@pytest.mark.parametrize("channels", [1, 3])
def test_every_parameter_gets_a_gradient(channels: int) -> None:
    network = SmallConvNet((4, 8), bias=False)
    network(torch.rand(4, channels, 8, 8)).square().sum().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.any(), name


def test_a_network_of_five_convolutions_can_be_written_in_yaml() -> None:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(nn.Module, "network")
    config = "network:" + NETWORK_M.replace("\n", "\n  ")
    network = parser.instantiate_classes(parser.parse_string(config)).network
    assert network(torch.rand(2, 1, 28, 28)).shape == (2, 10)
    filters = [1, 32, 32, 64, 64, 64]
    convolutions = sum(
        k * k * a * b + 2 * b
        for k, a, b in zip([5, 3, 3, 3, 3], filters, filters[1:], strict=False)
    )
    assert sum(p.numel() for p in network.parameters()) == convolutions + 64 * 10 + 10


def test_the_plain_network_is_its_padded_convolutions_with_rectifiers_between() -> None:
    network, image = PlainConvNet([4, 6], [9, 5], [4, 1]), torch.rand(2, 3, 84, 40)
    features = network(image)
    first, second = network.layers
    torch.testing.assert_close(features, nn.Sequential(first, nn.ReLU(), second)(image))
    assert features.shape == (2, 6, 21, 10)
    assert (features < 0).any()


@pytest.mark.parametrize("kind", [SmallConvNet, PlainConvNet])
def test_numbers_that_do_not_agree_are_refused(kind: Any) -> None:
    with pytest.raises(ValueError, match="2 num_filters, 1 kernel_sizes and 2 strides; give one"):
        kind([4, 6], kernel_sizes=[9], strides=[4, 1])
    with pytest.raises(ValueError, match="3 num_filters, 3 kernel_sizes and 2 strides; give one"):
        kind((4, 8, 8), kernel_sizes=3, strides=[1, 2])
    with pytest.raises(ValueError, match="kernel size 4 is even"):
        kind((4, 8), kernel_sizes=[3, 4], strides=1)

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest
import torch
from scipy import signal
from torch import nn

from stn_lightning.backbones import CNN, FCN

Array = npt.NDArray[np.float64]
SIZES = (21, 28, 42, 60)
"""RTS halved, R, P and E, RTS, TC."""


def parameters(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


def values(layer: nn.Module) -> tuple[Array, Array]:
    """Weights and biases."""
    assert isinstance(layer.weight, nn.Parameter)
    assert isinstance(layer.bias, nn.Parameter)
    return layer.weight.detach().double().numpy(), layer.bias.detach().double().numpy()


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("channels", [1, 4])
def test_the_fcn_has_the_parameters_of_its_layers_at_any_size(size: int, channels: int) -> None:
    network = FCN([128, 96], num_classes=10)
    assert network(torch.rand(3, channels, size, size)).shape == (3, 10)
    inputs = channels * size * size
    assert parameters(network) == (inputs * 128 + 128) + (128 * 96 + 96) + (96 * 10 + 10)


@pytest.mark.parametrize(("size", "side"), [(21, 1), (28, 2), (42, 6), (60, 10)])
@pytest.mark.parametrize(("filters", "channels"), [(8, 1), (12, 4)])
def test_the_cnn_has_the_parameters_of_its_layers_and_survives_at_every_size(
    size: int, side: int, filters: int, channels: int
) -> None:
    network = CNN(filters, num_classes=19)
    assert network(torch.rand(3, channels, size, size)).shape == (3, 19)
    convolutions = (channels * 81 * filters + filters) + (filters * 49 * filters + filters)
    assert parameters(network) == convolutions + (side * side * filters * 19 + 19)


@pytest.mark.parametrize("units", [[7], [7, 5], [7, 5, 6]])
def test_the_fcn_is_matrix_products_with_rectifiers_between(units: list[int]) -> None:
    network, image = FCN(units), torch.randn(4, 2, 5, 6)
    actual = network(image)
    features = image.flatten(1).double().numpy()
    layers = list(network.layers)
    for i, layer in enumerate(layers):
        weight, bias = values(layer)
        features = features @ weight.T + bias
        if i < len(layers) - 1:
            features = np.maximum(features, 0)
    np.testing.assert_allclose(actual.detach().numpy(), features, atol=1e-5)
    assert len(layers) == len(units) + 1


def naive_stage(image: Array, weight: Array, bias: Array) -> Array:
    """Convolution without padding, rectifier, 2 x 2 maxima of which the last may be of one row or
    column: (C, H, W).
    """
    maps = [
        bias[f]
        + sum(signal.correlate2d(image[c], weight[f, c], mode="valid") for c in range(len(image)))
        for f in range(len(weight))
    ]
    stacked = np.maximum(np.stack(maps), 0)
    rows, columns = range(0, stacked.shape[1], 2), range(0, stacked.shape[2], 2)
    return np.array(
        [[[plane[r : r + 2, c : c + 2].max() for c in columns] for r in rows] for plane in stacked]
    )


@pytest.mark.parametrize("size", SIZES)
def test_the_cnn_agrees_with_a_naive_reference(size: int) -> None:
    network, image = CNN(3), torch.randn(2, 2, size, size)
    actual = network(image)
    for i in range(2):
        features = naive_stage(
            naive_stage(image[i].double().numpy(), *values(network.conv1)), *values(network.conv2)
        )
        weight, bias = values(network.classifier)
        np.testing.assert_allclose(
            actual[i].detach().numpy(), weight @ features.ravel() + bias, atol=1e-4
        )


@pytest.mark.parametrize("build", [lambda: FCN([16, 16]), lambda: CNN(4)], ids=["FCN", "CNN"])
def test_every_parameter_gets_a_gradient(build: Callable[[], nn.Module]) -> None:
    network = build()  # from the test's seed: with 4 filters, one is sometimes dead
    network(torch.rand(8, 1, 28, 28)).square().sum().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.any(), name


@pytest.mark.parametrize("network", [FCN([16, 16]), CNN(4)], ids=["FCN", "CNN"])
def test_images_of_a_batch_do_not_affect_each_other(network: nn.Module) -> None:
    images = torch.rand(5, 1, 28, 28)
    together = network(images)
    torch.testing.assert_close(together[2:3], network(images[2:3]), rtol=0, atol=1e-5)


def test_batch_normalisation_and_dropout_are_options_of_the_cnn() -> None:
    network, image = CNN(4, batch_norm=True, dropout=0.5), torch.rand(64, 1, 28, 28)
    network(image)
    assert {name for name, _ in network.named_parameters() if "conv" in name} == {
        "conv1.weight",
        "conv2.weight",
    }
    normalised: list[torch.Tensor] = []
    for norm in network.norms:
        norm.register_forward_hook(lambda _, __, output: normalised.append(output))
    assert not torch.equal(network(image), network(image))
    for output in normalised:
        torch.testing.assert_close(output.mean((0, 2, 3)), torch.zeros(4), rtol=0, atol=1e-4)
        torch.testing.assert_close(output.std((0, 2, 3)), torch.ones(4), rtol=0, atol=1e-2)
    assert torch.equal(network.eval()(image), network(image))

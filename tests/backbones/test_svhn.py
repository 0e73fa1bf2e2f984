import itertools
import math
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional

from stn_lightning.backbones import MultiDigitCNN, SharedLayersCNN
from stn_lightning.geometry import affine
from stn_lightning.transformers import (
    Affine,
    FullyConnectedLocalisation,
    NoisyIdentity,
    SpatialTransformer,
    Start,
    SVHNLocalisation,
)
from stn_lightning.transformers.transformer import record_warps

SMALL = 0.125


def transformers(n: int = 4, start: Start | None = None) -> list[nn.Module]:
    return [
        SpatialTransformer(FullyConnectedLocalisation([32, 32]), Affine(), start=start)
        for _ in range(n)
    ]


def parameters(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


@pytest.mark.parametrize(("size", "flat"), [(64, 4 * 4 * 192), (128, 8 * 8 * 192)])
def test_the_cnn_has_the_papers_layers(size: int, flat: int) -> None:
    network = MultiDigitCNN()
    with torch.no_grad():
        assert network.eval()(torch.rand(1, 3, size, size)).shape == (1, 5, 11)
    filters = [3, 48, 64, 128, 160, 192, 192, 192, 192]
    convolutions = sum(25 * a * b + b for a, b in itertools.pairwise(filters))
    hidden = flat * 3072 + 3072 + 2 * (3072 * 3072 + 3072)
    assert parameters(network) == convolutions + hidden + 3072 * 55 + 55


def test_a_poolings_halving_follows_every_other_convolution() -> None:
    network = MultiDigitCNN(SMALL).eval()
    sizes = [network._features(torch.rand(1, 3, 64, 64), depth).shape[-1] for depth in range(1, 9)]
    assert sizes == [32, 32, 16, 16, 8, 8, 4, 4]


def test_the_cnn_agrees_with_its_layers_written_out() -> None:
    network, image = MultiDigitCNN(SMALL).eval(), torch.rand(2, 3, 64, 64)
    c, h = list(network.convolutions), list(network.hidden)
    actual = network(image)
    pool = nn.MaxPool2d(2)
    r = functional.relu
    features = r(c[2](r(c[1](pool(r(c[0](image)))))))
    features = r(c[4](r(c[3](pool(features)))))
    features = r(c[6](r(c[5](pool(features)))))
    features = r(c[7](pool(features))).flatten(1)
    expected = network.heads(r(h[2](r(h[1](r(h[0](features))))))).view(2, 5, 11)
    torch.testing.assert_close(actual, expected)


def test_signals_neither_die_nor_explode_through_eleven_layers() -> None:
    network, image = MultiDigitCNN(0.5).eval(), torch.randn(8, 3, 64, 64)
    features = network._features(image, 8).flatten(1)
    assert 0.1 < features.std() < 10
    for layer in network.hidden:
        features = functional.relu(layer(features))
    assert 0.1 < features.std() < 10


def test_multi_at_its_start_is_the_cnn_bit_for_bit() -> None:
    plain = MultiDigitCNN(SMALL).eval()
    multi = MultiDigitCNN(SMALL, transformers()).eval()
    image = torch.rand(2, 3, 64, 64)
    plain(image)
    multi(image)
    multi.load_state_dict(plain.state_dict(), strict=False)
    assert torch.equal(multi(image), plain(image))


def test_the_transformers_of_multi_stand_before_the_first_four_convolutions() -> None:
    multi, image = (
        MultiDigitCNN(SMALL, transformers(start=NoisyIdentity(0.2))).eval(),
        torch.rand(2, 3, 64, 64),
    )
    multi(image)
    with record_warps(multi) as records:
        multi(image)
    warps = [record.output for record in records]
    assert [tuple(warp.image.shape[1:]) for warp in warps] == [
        (3, 64, 64),
        (6, 32, 32),
        (8, 32, 32),
        (16, 16, 16),
    ]
    features: Any = image
    for i, (warp, convolution) in enumerate(zip(warps, multi.convolutions, strict=False)):
        expected = torch.nn.functional.grid_sample(
            features, affine.grid(warp.theta, tuple(features.shape[2:])), align_corners=False
        )
        torch.testing.assert_close(warp.image, expected, rtol=0, atol=1e-4)
        features = functional.relu(convolution(warp.image))
        features = functional.max_pool2d(features, 2) if i % 2 == 0 else features


def test_the_shared_network_warps_the_image_by_what_the_classifiers_layers_see() -> None:
    (transformer,) = transformers(1, NoisyIdentity(0.1))
    shared = SharedLayersCNN(transformer, depth=3, width=SMALL).eval()
    plain = MultiDigitCNN(SMALL).eval()
    image = torch.rand(2, 3, 64, 64)
    shared(image)
    with record_warps(shared) as records:
        logits = shared(image)
    plain(image)
    plain.load_state_dict(
        {k: v for k, v in shared.state_dict().items() if not k.startswith("transformer.")}
    )
    (warp,) = (record.output for record in records)
    assert warp.image.shape == image.shape
    torch.testing.assert_close(logits, plain(warp.image))
    seen = plain._features(image, 3)
    torch.testing.assert_close(warp.theta, transformer.warp(seen).theta)  # type: ignore[operator]


@pytest.mark.parametrize("kind", ["cnn", "multi", "shared"])
def test_every_parameter_gets_a_gradient(kind: str) -> None:
    few = transformers(4, NoisyIdentity(0.1))
    networks: dict[str, nn.Module] = {
        "cnn": MultiDigitCNN(SMALL, dropout=0.0),
        "multi": MultiDigitCNN(SMALL, few, dropout=0.0),
        "shared": SharedLayersCNN(few[0], width=SMALL, dropout=0.0),
    }
    network, image = networks[kind], torch.rand(4, 3, 64, 64)
    network(image)
    for (
        parameter
    ) in network.parameters():  # a zero regression layer gives its localisation no gradient yet
        parameter.data += 0.01 * torch.randn_like(parameter)
    network(image).square().sum().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.any(), name


def test_dropout_spares_the_first_convolution_and_the_localisation() -> None:
    network, image = (
        MultiDigitCNN(SMALL, transformers(2, NoisyIdentity(0.1)), dropout=0.5),
        torch.rand(2, 3, 64, 64),
    )
    network(image)
    with record_warps(network.train()) as records:
        network(image)
        network(image)
    thetas = [record.output.theta for record in records]
    assert torch.equal(thetas[0], thetas[2])
    assert torch.equal(thetas[1], thetas[3])  # the first convolution lies before it
    assert not torch.equal(network(image), network(image))
    assert torch.equal(network.eval()(image), network(image))


def test_the_localisation_of_single_has_the_papers_layers() -> None:
    localisation = SVHNLocalisation()
    assert localisation(torch.rand(2, 3, 64, 64)).shape == (2, 32)
    assert parameters(localisation) == (75 * 32 + 32) + (25 * 32 * 32 + 32) + (
        32 * 32 * 32 * 32 + 32
    ) + (32 * 32 + 32)


def test_what_cannot_be_built_is_refused() -> None:
    with pytest.raises(ValueError, match="9 transformers before 8 convolutions"):
        MultiDigitCNN(SMALL, transformers(9))
    with pytest.raises(ValueError, match="leaves no filter"):
        MultiDigitCNN(0.001)
    with pytest.raises(ValueError, match="depth 0"):
        SharedLayersCNN(transformers(1)[0], depth=0)


def test_the_weights_of_hidden_layers_have_he_et_als_deviation() -> None:
    network = MultiDigitCNN(0.5)
    network(torch.rand(1, 3, 64, 64))
    for layer in [*network.convolutions, *network.hidden]:
        assert isinstance(layer.weight, nn.Parameter)
        fan_in = layer.weight[0].numel()
        assert layer.weight.std().item() == pytest.approx(math.sqrt(2 / fan_in), rel=0.05)

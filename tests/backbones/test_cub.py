import functools
from pathlib import Path

import jaxtyping
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode
from torchvision import models

from stn_lightning.backbones import (
    MultiCropClassifier,
    SmallConvNet,
    TimmFeatures,
    TorchvisionFeatures,
    feature_extractors,
)
from stn_lightning.transformers import (
    Antialiased,
    Bilinear,
    FeatureLocalisation,
    ParallelTransformer,
    Tiling,
    Translation,
)
from stn_lightning.transformers.transformer import Regression, record_warps
from tests.transformers.doubles import awaken

small_extractor = functools.partial(SmallConvNet, (4, 8))


def transformer_of(
    n: int, size: int = 32, shrink: int = 1, scale: float = 0.5
) -> ParallelTransformer:
    return ParallelTransformer(
        FeatureLocalisation(small_extractor(), shrink, 8, 8),
        Translation(scale),
        n,
        (size, size),
        Antialiased([0.5, 0.5, 0.5]),
        Tiling(),
    )


@pytest.mark.parametrize("shared", [True, False])
def test_streams_equal_each_crop_by_itself(shared: bool) -> None:
    network = MultiCropClassifier(small_extractor(), 3, shared, num_classes=5).eval()
    crops = torch.rand(2, 3, 3, 16, 16)
    logits = network(crops)
    assert logits.shape == (2, 5)
    assert len(network.feature_extractors) == (1 if shared else 3)
    vectors = [
        network.feature_extractors[0 if shared else i](crops[:, i]).mean((2, 3)) for i in range(3)
    ]
    torch.testing.assert_close(logits, network.classifier(torch.cat(vectors, 1)))


def test_one_image_is_one_crop() -> None:
    network, image = (
        MultiCropClassifier(small_extractor(), num_classes=5).eval(),
        torch.rand(2, 3, 16, 16),
    )
    assert torch.equal(network(image), network(image[:, None]))


def test_shared_streams_run_the_feature_extractor_once() -> None:
    network, calls = MultiCropClassifier(small_extractor(), 4, shared=True, num_classes=5), []
    network.feature_extractors[0].register_forward_hook(lambda *_: calls.append(1))
    network(torch.rand(2, 4, 3, 16, 16))
    assert len(calls) == 1


def test_another_number_of_crops_is_refused() -> None:
    with pytest.raises(ValueError, match="an image has 2 crops, the backbone expects 3"):
        MultiCropClassifier(small_extractor(), 3)(torch.rand(2, 2, 3, 16, 16))


@pytest.mark.parametrize("n", [1, 2, 4])
def test_gradients_reach_each_transformer_and_each_stream(n: int) -> None:
    transformer, backbone = (
        transformer_of(n),
        MultiCropClassifier(small_extractor(), n, dropout=0.0, num_classes=5),
    )
    image = torch.rand(4, 3, 64, 64)
    backbone(transformer(image)).square().sum().backward()
    regression = transformer.regressions[0].linear
    assert isinstance(regression, nn.Linear)
    assert regression.weight.grad is not None
    assert (regression.weight.grad.unflatten(0, (n, 2)).abs().sum((1, 2)) > 0).all()
    assert all(
        parameter.grad is not None and parameter.grad.any()
        for parameter in backbone.feature_extractors.parameters()
        if parameter.dim() > 1
    )


@pytest.mark.parametrize(("x", "y"), [(-1, -1), (1, -1), (-1, 1), (1, 1)])
def test_crops_can_reach_every_corner(x: int, y: int) -> None:
    """Training moves a crop to where the loss wants it, whichever corner that is."""
    transformer = ParallelTransformer(
        FeatureLocalisation(small_extractor(), 1, 8, 8),
        Translation(0.5),
        2,
        (32, 32),
        Bilinear("border"),
    )
    image = torch.zeros(1, 3, 64, 64)
    image[:, :, : 8 if y < 0 else None, : 8 if x < 0 else None][
        :, :, None if y < 0 else -8 :, None if x < 0 else -8 :
    ] = 1
    transformer(image)
    optimizer = torch.optim.Adam(transformer.regressions.parameters(), 0.05)
    goal = torch.tensor([0.5 * x, 0.5 * y])
    for _ in range(120):
        optimizer.zero_grad()
        (transformer.warp(image).theta - goal).square().sum().backward()
        optimizer.step()
    crops = transformer(image)
    corner = (
        slice(None, 8) if y < 0 else slice(-8, None),
        slice(None, 8) if x < 0 else slice(-8, None),
    )
    assert crops[0, :, 0][:, corner[0], corner[1]].min() > 0.9


def step(network: nn.Module, image: Tensor) -> tuple[Tensor, Tensor]:
    """The loss, and the gradient of where each transformer looks."""
    regression = next(module for module in network.modules() if isinstance(module, Regression))
    network.zero_grad()
    loss = functional.cross_entropy(network(image), torch.tensor([0, 1, 2, 3]))
    loss.backward()
    assert isinstance(regression.linear.weight.grad, Tensor)
    return loss.detach(), regression.linear.weight.grad.clone()


def birds() -> tuple[nn.Sequential, Tensor]:
    """Two transformers that have left their start, two streams and images for them."""
    torch.manual_seed(0)
    network, image = (
        nn.Sequential(
            transformer_of(2), MultiCropClassifier(small_extractor(), 2, dropout=0.0, num_classes=5)
        ),
        torch.rand(4, 3, 64, 64),
    )
    awaken(network[0], image)
    network(image)
    return network.to(memory_format=torch.channels_last), image


def thetas(network: nn.Sequential, image: Tensor) -> Tensor:
    with record_warps(network) as records, torch.no_grad():
        network(image)
    return records[0].output.theta


def test_bfloat16_changes_the_loss_and_the_gradients_little_and_theta_less() -> None:
    network, image = birds()
    loss, gradient = step(network, image)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed_loss, mixed_gradient = step(network, image)
        theta = thetas(network, image)
    assert theta.dtype == torch.float32
    torch.testing.assert_close(theta, thetas(network, image), rtol=0, atol=5e-3)
    torch.testing.assert_close(mixed_loss, loss, rtol=0.02, atol=0)
    assert functional.cosine_similarity(mixed_gradient.flatten(), gradient.flatten(), 0) > 0.95


@pytest.fixture
def _unchecked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the checks of shapes, which are no part of the program and cannot be compiled."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    torch.compiler.reset()


@pytest.mark.slow
@pytest.mark.usefixtures("_unchecked")
def test_compiled_into_one_graph_the_whole_network_steps_as_it_does_plainly() -> None:
    network, image = birds()
    loss, gradient = step(network, image)
    network.compile(fullgraph=True, backend="aot_eager")
    compiled_loss, compiled_gradient = step(network, image)
    torch.testing.assert_close(compiled_loss, loss)
    torch.testing.assert_close(compiled_gradient, gradient, rtol=1e-3, atol=1e-6)


def flops(network: nn.Module, *inputs: Tensor) -> int:
    with FlopCounterMode(display=False) as counter:
        network(*inputs)
    return counter.get_total_flops()


def test_looking_twice_as_closely_costs_the_localisation_and_the_streams_the_same() -> None:
    costs = []
    for side, shrink in ((64, 1), (128, 2)):
        transformer, backbone = (
            transformer_of(2, 32, shrink).eval(),
            MultiCropClassifier(small_extractor(), 2, num_classes=5).eval(),
        )
        image = torch.rand(2, 3, side, side)
        crops = transformer(image)
        backbone(crops)
        costs.append((flops(transformer.localisations[0], image), flops(backbone, crops)))
    assert costs[0] == costs[1]
    assert min(costs[0]) > 1e5


@functools.cache
def resnet() -> models.ResNet:
    torch.manual_seed(1)
    return models.resnet18(num_classes=7)


@pytest.mark.parametrize("ending", ["pth", "safetensors"])
def test_local_weights_in_the_original_layout_give_the_networks_own_features(
    tmp_path: Path, ending: str
) -> None:
    path = tmp_path / f"weights.{ending}"
    state = resnet().state_dict()
    torch.save(state, path) if ending == "pth" else save_file(state, path)
    extractor, image = (
        TorchvisionFeatures("resnet18", "layer4", str(path)).eval(),
        torch.rand(2, 3, 64, 64),
    )
    assert extractor(image).shape == (2, 512, 2, 2)
    original = resnet().eval()
    mean, std = (
        torch.tensor(feature_extractors.MEAN)[:, None, None],
        torch.tensor(feature_extractors.STD)[:, None, None],
    )
    torch.testing.assert_close(
        original.fc(extractor(image).mean((2, 3))), original((image - mean) / std)
    )


@pytest.mark.parametrize(
    ("network", "node", "shape", "options"),
    [
        ("googlenet", "inception5b", (1024, 2, 2), {"init_weights": False, "aux_logits": False}),
        pytest.param("convnext_tiny", "features", (768, 2, 2), {}, marks=pytest.mark.slow),
        pytest.param(
            "vit_b_32", "encoder.ln", (768, 2, 2), {"image_size": 64}, marks=pytest.mark.slow
        ),
    ],
)
def test_inception_convnext_and_vision_transformers_are_feature_extractors(
    network: str, node: str, shape: tuple[int, ...], options: dict[str, object]
) -> None:
    extractor = TorchvisionFeatures(network, node, options=dict(options)).eval()
    with torch.no_grad():
        assert extractor(torch.rand(1, 3, 64, 64)).shape == (1, *shape)


def test_a_vision_transformer_of_timms_is_a_feature_extractor(tmp_path: Path) -> None:
    small: dict[str, object] = {"img_size": 64, "depth": 2}
    extractor = TimmFeatures("vit_tiny_patch16_224", options=small).eval()
    torch.save(extractor.network.state_dict(), tmp_path / "weights.pth")
    other, image = (
        TimmFeatures("vit_tiny_patch16_224", str(tmp_path / "weights.pth"), options=small).eval(),
        torch.rand(1, 3, 64, 64),
    )
    assert extractor(image).shape == (1, 192, 4, 4)
    assert torch.equal(extractor(image), other(image))


def test_a_frozen_feature_extractor_learns_nothing_and_keeps_its_statistics() -> None:
    network = MultiCropClassifier(
        TorchvisionFeatures("resnet18", "layer4", frozen=True), num_classes=3
    ).train()
    before = {
        name: value.clone() for name, value in network.feature_extractors.state_dict().items()
    }
    network(torch.rand(2, 3, 32, 32)).sum().backward()
    assert all(
        torch.equal(before[name], value)
        for name, value in network.feature_extractors.state_dict().items()
    )
    assert not any(parameter.requires_grad for parameter in network.feature_extractors.parameters())
    assert network.classifier.weight.grad is not None


def test_weights_that_cannot_be_had_are_refused_in_a_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def offline(url: str, **_: object) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", offline)
    torch.save({"conv1.weight": torch.zeros(1)}, tmp_path / "other.pth")
    (tmp_path / "bad.pth").write_bytes(b"cos\nsystem\n(S'true'\ntR.")
    for weights, said in (
        (
            "IMAGENET1K_V1",
            r"resnet18-.*\.pth cannot be downloaded \(no route to host\); copy the file here",
        ),
        ("IMAGENET1K", "resnet18 has no weights 'IMAGENET1K'; torchvision has IMAGENET1K_V1"),
        (
            str(tmp_path / "other.pth"),
            "of 120 tensors are missing or have another shape, the first is conv1.weight",
        ),
        (str(tmp_path / "bad.pth"), "no weights can be read from it"),
        (str(tmp_path / "none.safetensors"), "no weights can be read from it"),
    ):
        with pytest.raises(ValueError, match=said) as refused:
            TorchvisionFeatures("resnet18", "layer4", weights)
        assert "\n" not in str(refused.value)
    with pytest.raises(ValueError, match="torchvision has no network 'resnet19'"):
        TorchvisionFeatures("resnet19", "layer4")
    with pytest.raises(ValueError, match="has no node 'layer5'"):
        TorchvisionFeatures("resnet18", "layer5")

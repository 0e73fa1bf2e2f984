import copy

import pytest
import torch

from stn_lightning.backbones import FeatureExtractor, TimmFeatures, TorchvisionFeatures
from stn_lightning.backbones.feature_extractors import tokens_to_map


def resnet(library: str, **options: object) -> FeatureExtractor:
    torch.manual_seed(0)
    if library == "timm":
        return TimmFeatures("resnet18", **options)  # type: ignore[arg-type]
    return TorchvisionFeatures("resnet18", **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("library", ["timm", "torchvision"])
def test_two_parts_of_a_network_make_the_whole(library: str) -> None:
    whole = resnet(library, node="layer4").eval()
    first, rest = resnet(library, node="layer2"), resnet(library, node="layer4", after="layer2")
    first.network.load_state_dict(whole.network.state_dict(), strict=False)
    rest.network.load_state_dict(whole.network.state_dict(), strict=False)
    image = torch.rand(2, 3, 64, 64)
    for part in (rest, copy.deepcopy(rest)):
        assert torch.equal(part.eval()(first.eval()(image)), whole(image))
    names = [set(dict(part.network.named_parameters())) for part in (first, rest)]
    assert not names[0] & names[1]
    assert names[0] | names[1] == set(dict(whole.network.named_parameters()))


def test_a_part_trains_in_the_mode_that_it_was_built_in() -> None:
    rest = resnet("timm", node="layer4", after="layer2")
    rest(torch.rand(2, 128, 8, 8)).sum().backward()
    assert all(parameter.grad is not None for parameter in rest.parameters())


def test_a_node_that_a_branch_goes_around_is_refused() -> None:
    with pytest.raises(ValueError, match=r"after layer2.0.conv1: later layers read earlier nodes"):
        TorchvisionFeatures("resnet18", "layer4", after="layer2.0.conv1")


@pytest.mark.parametrize("library", ["timm", "torchvision"])
def test_frozen_up_to_a_node_the_rest_is_trained(library: str) -> None:
    extractor = resnet(library, node="layer4", frozen="layer2").train()
    before = {name: value.clone() for name, value in extractor.state_dict().items()}
    extractor(torch.rand(2, 3, 64, 64)).sum().backward()
    frozen = ("network.conv1", "network.bn1", "network.layer1", "network.layer2")
    for name, parameter in extractor.named_parameters():
        assert (parameter.grad is None) == name.startswith(frozen)
    changed = {n for n, value in extractor.state_dict().items() if not value.equal(before[n])}
    assert changed  # running statistics
    assert not any(name.startswith(frozen) for name in changed)


def test_a_node_of_timm_wants_to_know_where_to_stop() -> None:
    with pytest.raises(ValueError, match="need the last node, too; give node"):
        TimmFeatures("resnet18", frozen="layer2")
    with pytest.raises(ValueError, match="has no node 'layer9'"):
        TimmFeatures("resnet18", node="layer9")
    with pytest.raises(ValueError, match="needs a network, or weights of lite0, lite1, lite2"):
        TimmFeatures()


def test_a_given_normalisation_takes_the_place_of_timms() -> None:
    extractor = TimmFeatures("resnet18", node="conv1", mean=[0.1] * 3, std=[0.2] * 3)
    image = torch.rand(1, 3, 32, 32)
    expected = extractor.network.get_submodule("conv1")((image - 0.1) / 0.2)
    torch.testing.assert_close(extractor(image), expected)


@pytest.mark.parametrize("tokens", [{}, {"class_token": False, "global_pool": "avg"}])
def test_a_vision_transformers_tokens_become_a_map_of_the_images_shape(
    tokens: dict[str, object],
) -> None:
    options = {"img_size": (64, 128), "depth": 1, "embed_dim": 24, "num_heads": 2, **tokens}
    network = TimmFeatures("vit_tiny_patch16_224", node="norm", options=options).eval()
    image = torch.rand(1, 3, 64, 128)
    maps = network(image)
    assert maps.shape == (1, 24, 4, 8)
    rows = network.features((image - network.mean) / network.std)
    assert torch.equal(maps.flatten(2).transpose(1, 2), rows[:, rows.shape[1] - 32 :])


def test_tokens_that_are_no_map_are_refused() -> None:
    with pytest.raises(ValueError, match="15 tokens are no map of an image of 64 x 64 pixels"):
        tokens_to_map(torch.rand(1, 15, 8), (64, 64))


@pytest.mark.parametrize("library", ["timm", "torchvision"])
def test_maps_have_their_channels_first(library: str) -> None:
    if library == "timm":
        network: FeatureExtractor = TimmFeatures("swin_tiny_patch4_window7_224", node="layers.1")
    else:
        network = TorchvisionFeatures("swin_t", "features.3")
    assert network.eval()(torch.rand(1, 3, 224, 224)).shape == (1, 192, 28, 28)


def test_frozen_up_to_a_node_are_parameters_without_a_module_of_their_own() -> None:
    network = TimmFeatures("convnext_atto", node="stages.1", frozen="stages.0")
    for name, parameter in network.named_parameters():
        assert parameter.requires_grad == name.startswith("network.stages.1"), name

import pytest
import torch
from torch.nn import functional

from stn_lightning.backbones import MultiCropClassifier, SharedStemClassifier, SmallConvNet
from stn_lightning.transformers import (
    HeatmapCentres,
    HeatmapLocalisation,
    ParallelTransformer,
    SpatialTransformer,
    Tiling,
    Transformer,
    Translation,
    record_warps,
)


def network_of(
    transformer: Transformer | None, num_crops: int, global_view: bool
) -> SharedStemClassifier:
    torch.manual_seed(0)
    stem = SmallConvNet((4, 6))
    classifier = MultiCropClassifier(SmallConvNet((8,)), num_crops, shared=True, num_classes=5)
    network = SharedStemClassifier(stem, classifier, transformer, global_view=global_view)
    network(torch.rand(2, 3, 32, 32))
    stem.requires_grad_(False)
    return network.eval()


def two_crops() -> ParallelTransformer:
    localisation = HeatmapLocalisation(SmallConvNet((8,), [1]), 2)
    return ParallelTransformer(localisation, Translation(0.5), 2, (4, 4), start=HeatmapCentres())


def test_crops_are_cut_from_the_stems_maps_and_the_smaller_view_is_the_last() -> None:
    transformer = two_crops()
    network, image = network_of(transformer, 3, global_view=True), torch.rand(2, 3, 32, 32)
    maps, small = network.stem(image), network.stem(functional.avg_pool2d(image, 2))
    crops = torch.cat([transformer(maps, small), small[:, None]], 1)
    torch.testing.assert_close(network(image), network.classifier(crops))


def test_without_a_transformer_the_classifier_gets_the_image_in_either_view() -> None:
    image = torch.rand(2, 3, 32, 32)
    for global_view, view in ((False, image), (True, functional.avg_pool2d(image, 2))):
        network = network_of(None, 1, global_view)
        torch.testing.assert_close(network(image), network.classifier(network.stem(view)))


def test_a_single_transformer_gives_one_crop() -> None:
    localisation = HeatmapLocalisation(SmallConvNet((8,), [1]), 1)
    single = SpatialTransformer(localisation, Translation(0.5), (4, 4), start=HeatmapCentres())
    assert network_of(single, 1, global_view=False)(torch.rand(2, 3, 32, 32)).shape == (2, 5)


@pytest.mark.parametrize("n", [3, 9])
def test_a_batch_that_a_frozen_stem_gets_in_chunks_gives_the_same(n: int) -> None:
    network, image = network_of(two_crops(), 2, global_view=False), torch.rand(n, 3, 32, 32)
    one_by_one = torch.cat([network(each) for each in image.split(1)])
    torch.testing.assert_close(network(image), one_by_one)
    sizes: list[int] = []
    network.stem.register_forward_hook(lambda _, given, __: sizes.append(len(given[0])))
    network(image)
    assert max(sizes) <= 4
    network.train()(image)
    assert max(sizes) == n


def test_the_localisation_learns_though_the_stem_is_frozen() -> None:
    transformer = two_crops()
    network = network_of(transformer, 2, global_view=False).train()
    network.stem.eval()
    network(torch.rand(4, 3, 32, 32)).square().sum().backward()
    localisation = transformer.localisations[0]
    assert all(p.grad is not None and p.grad.any() for p in localisation.conv.parameters())  # type: ignore[union-attr]
    assert not any(p.grad is not None for p in network.stem.parameters())


def test_the_warp_of_maps_is_drawn_as_one_of_the_image() -> None:
    transformer = ParallelTransformer(
        HeatmapLocalisation(SmallConvNet((8,), [1]), 2), Translation(0.5), 2, (4, 4), start=Tiling()
    )
    network, image = network_of(transformer, 2, global_view=False), torch.rand(2, 3, 32, 32)
    with record_warps(network) as records:
        network(image)
    crops = records[0].on_image(image).crops
    assert crops.shape == (2, 2, 3, 16, 16)
    torch.testing.assert_close(crops[:, 0], image[:, :, 8:24, :16])
    torch.testing.assert_close(crops[:, 1], image[:, :, 8:24, 16:])

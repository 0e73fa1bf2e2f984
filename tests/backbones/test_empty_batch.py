"""A process may get no image of the last batch: every backbone takes a batch of 0."""

import pytest
import torch
from torch import nn

from stn_lightning.backbones import (
    CNN,
    FCN,
    DepthProjection,
    MultiCropClassifier,
    MultiDigitCNN,
    PlainConvNet,
    SharedLayersCNN,
    SmallConvNet,
    TimmFeatures,
    TorchvisionFeatures,
)
from stn_lightning.transformers import Affine, FullyConnectedLocalisation, SpatialTransformer

NETWORKS: dict[str, tuple[nn.Module, tuple[int, ...]]] = {
    "FCN": (FCN([8]), (1, 28, 28)),
    "CNN": (CNN(4, batch_norm=True), (1, 28, 28)),
    "CNN of a halved image": (CNN(4), (1, 21, 21)),
    "two shared crops": (MultiCropClassifier(SmallConvNet((4,)), 2, shared=True), (2, 3, 16, 16)),
    "two crops": (MultiCropClassifier(SmallConvNet((4,)), 2), (2, 3, 16, 16)),
    "one crop": (MultiCropClassifier(PlainConvNet((4,), 3, 2)), (3, 16, 16)),
    "MultiDigitCNN": (MultiDigitCNN(0.05), (3, 64, 64)),
    "SharedLayersCNN": (
        SharedLayersCNN(SpatialTransformer(FullyConnectedLocalisation([8]), Affine()), width=0.05),
        (3, 64, 64),
    ),
    "DepthProjection": (DepthProjection(FCN([8])), (1, 6, 8, 8)),
    "torchvision": (
        MultiCropClassifier(TorchvisionFeatures("resnet18", "layer1")),
        (3, 32, 32),
    ),
    "timm": (
        MultiCropClassifier(
            TimmFeatures("vit_tiny_patch16_224", options={"depth": 1, "img_size": 32})
        ),
        (3, 32, 32),
    ),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_a_batch_without_images_gives_no_logits(name: str) -> None:
    network, shape = NETWORKS[name]
    with torch.no_grad():
        expected = network.eval()(torch.rand(2, *shape)).shape[1:]
        assert network(torch.rand(0, *shape)).shape == (0, *expected)

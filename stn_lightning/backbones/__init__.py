"""Backbones: image(s) to logits."""

from stn_lightning.backbones.cub import MultiCropClassifier, SmallConvNet
from stn_lightning.backbones.feature_extractors import (
    FeatureExtractor,
    TimmFeatures,
    TorchvisionFeatures,
)
from stn_lightning.backbones.mnist import CNN, FCN, PlainConvNet
from stn_lightning.backbones.svhn import MultiDigitCNN, SharedLayersCNN
from stn_lightning.backbones.volumes import DepthProjection

__all__ = [
    "CNN",
    "FCN",
    "DepthProjection",
    "FeatureExtractor",
    "MultiCropClassifier",
    "MultiDigitCNN",
    "PlainConvNet",
    "SharedLayersCNN",
    "SmallConvNet",
    "TimmFeatures",
    "TorchvisionFeatures",
]

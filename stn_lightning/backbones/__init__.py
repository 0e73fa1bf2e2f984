"""Backbones: image(s) -> logits; feature extractors: image -> feature map."""

from stn_lightning.backbones.conv_nets import PlainConvNet, SmallConvNet
from stn_lightning.backbones.cub import MultiCropClassifier, SharedStemClassifier
from stn_lightning.backbones.feature_extractors import FeatureExtractor, TorchvisionFeatures
from stn_lightning.backbones.mnist import CNN, FCN
from stn_lightning.backbones.svhn import MultiDigitCNN, SharedLayersCNN
from stn_lightning.backbones.timm_features import TimmFeatures
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
    "SharedStemClassifier",
    "SmallConvNet",
    "TimmFeatures",
    "TorchvisionFeatures",
]

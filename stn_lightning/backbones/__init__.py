"""Backbones: image(s) to logits."""

from stn_lightning.backbones.birds import SmallTrunk, Streams
from stn_lightning.backbones.digits import CNN, FCN, PlainTrunk
from stn_lightning.backbones.house_numbers import HouseNumberCNN, SharedLayersCNN
from stn_lightning.backbones.trunks import TimmTrunk, TorchvisionTrunk, Trunk
from stn_lightning.backbones.volumes import DepthProjection

__all__ = [
    "CNN",
    "FCN",
    "DepthProjection",
    "HouseNumberCNN",
    "PlainTrunk",
    "SharedLayersCNN",
    "SmallTrunk",
    "Streams",
    "TimmTrunk",
    "TorchvisionTrunk",
    "Trunk",
]

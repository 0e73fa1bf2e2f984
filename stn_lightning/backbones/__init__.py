"""Backbones: image(s) to logits."""

from stn_lightning.backbones.digits import CNN, FCN

__all__ = ["CNN", "FCN"]

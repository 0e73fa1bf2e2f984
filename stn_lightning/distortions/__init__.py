"""Distortions of digits, for whole batches.

The distortion of an image is a function of the image and of (seed, epoch, index).

Reference:
    Jaderberg et al. 2015, section 4.1 and appendix A.4.
"""

from stn_lightning.distortions.clutter import Cluttered
from stn_lightning.distortions.counter_random import CounterRandom
from stn_lightning.distortions.distortion import Augmented, Distortion, WarpingDistortion
from stn_lightning.distortions.volumes import RandomPose3D
from stn_lightning.distortions.warps import Elastic, Perspective, Rotated, RotatedScaledTranslated

__all__ = [
    "Augmented",
    "Cluttered",
    "CounterRandom",
    "Distortion",
    "Elastic",
    "Perspective",
    "RandomPose3D",
    "Rotated",
    "RotatedScaledTranslated",
    "WarpingDistortion",
]

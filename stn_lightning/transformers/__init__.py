"""Spatial transformers (Figure 2 of the paper): localisation -> grid -> sampler, image to image(s).

Plain `torch.nn.Module`s, to be used in any network; nothing here knows of Lightning.
"""

from stn_lightning.transformers.bounded import Bounded
from stn_lightning.transformers.composed import ComposedTransformer
from stn_lightning.transformers.families import (
    Affine,
    Affine3D,
    Attention,
    ComposableFamily,
    Diffeomorphic,
    Family,
    LearntTarget,
    Projective,
    Similarity,
    ThinPlateSpline,
    Translation,
)
from stn_lightning.transformers.localisation import (
    ConvolutionalLocalisation,
    FullyConnectedLocalisation,
    HeatMapLocalisation,
    HouseNumberLocalisation,
    MomentLocalisation,
    StridedLocalisation,
    TrunkLocalisation,
    VolumeLocalisation,
)
from stn_lightning.transformers.parallel import ParallelTransformer
from stn_lightning.transformers.samplers import Antialiased, Bicubic, Bilinear, Nearest, Sampler, Trilinear, WideGradient
from stn_lightning.transformers.starts import Disturbed, Following, Identity, Start, Stated, Tiling
from stn_lightning.transformers.transformer import Look, SpatialTransformer, Transformer, Warp, watching

__all__ = [
    "Affine",
    "Affine3D",
    "Antialiased",
    "Attention",
    "Bicubic",
    "Bilinear",
    "Bounded",
    "ComposableFamily",
    "ComposedTransformer",
    "ConvolutionalLocalisation",
    "Diffeomorphic",
    "Disturbed",
    "Family",
    "Following",
    "FullyConnectedLocalisation",
    "HeatMapLocalisation",
    "HouseNumberLocalisation",
    "Identity",
    "LearntTarget",
    "Look",
    "MomentLocalisation",
    "Nearest",
    "ParallelTransformer",
    "Projective",
    "Sampler",
    "Similarity",
    "SpatialTransformer",
    "Start",
    "Stated",
    "StridedLocalisation",
    "ThinPlateSpline",
    "Tiling",
    "Transformer",
    "Translation",
    "Trilinear",
    "TrunkLocalisation",
    "VolumeLocalisation",
    "Warp",
    "WideGradient",
    "watching",
]

"""Spatial transformers: localisation -> grid -> sampler (Figure 2).

They are plain `torch.nn.Module`s: image -> image(s). They work in any network, without Lightning.
"""

from stn_lightning.transformers.bounded import BoundedFamily
from stn_lightning.transformers.composed import ComposedTransformer
from stn_lightning.transformers.families import (
    Affine,
    Affine3D,
    Attention,
    ComposableFamily,
    Family,
    Projective,
    Similarity,
    Translation,
)
from stn_lightning.transformers.heatmap_localisation import HeatmapLocalisation
from stn_lightning.transformers.localisation import (
    ConvolutionalLocalisation,
    FeatureLocalisation,
    FullyConnectedLocalisation,
    MomentLocalisation,
    StridedLocalisation,
    SVHNLocalisation,
    VolumeLocalisation,
)
from stn_lightning.transformers.moment_crop import MomentCrop
from stn_lightning.transformers.parallel import ParallelTransformer
from stn_lightning.transformers.samplers import (
    Antialiased,
    Bicubic,
    Bilinear,
    Nearest,
    Sampler,
    Trilinear,
    WideGradient,
)
from stn_lightning.transformers.spline_families import (
    Diffeomorphic,
    LearntTargetGrid,
    ThinPlateSpline,
)
from stn_lightning.transformers.starts import (
    HeatmapCentres,
    Identity,
    InitialTheta,
    NoisyIdentity,
    Start,
    Tiling,
)
from stn_lightning.transformers.transformer import (
    SpatialTransformer,
    Transformer,
    WarpOutput,
    WarpRecord,
    compose_records,
    record_warps,
)

__all__ = [
    "Affine",
    "Affine3D",
    "Antialiased",
    "Attention",
    "Bicubic",
    "Bilinear",
    "BoundedFamily",
    "ComposableFamily",
    "ComposedTransformer",
    "ConvolutionalLocalisation",
    "Diffeomorphic",
    "Family",
    "FeatureLocalisation",
    "FullyConnectedLocalisation",
    "HeatmapCentres",
    "HeatmapLocalisation",
    "Identity",
    "InitialTheta",
    "LearntTargetGrid",
    "MomentCrop",
    "MomentLocalisation",
    "Nearest",
    "NoisyIdentity",
    "ParallelTransformer",
    "Projective",
    "SVHNLocalisation",
    "Sampler",
    "Similarity",
    "SpatialTransformer",
    "Start",
    "StridedLocalisation",
    "ThinPlateSpline",
    "Tiling",
    "Transformer",
    "Translation",
    "Trilinear",
    "VolumeLocalisation",
    "WarpOutput",
    "WarpRecord",
    "WideGradient",
    "compose_records",
    "record_warps",
]

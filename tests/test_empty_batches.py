"""A process may be left without an image in the last batch: all takes a batch of 0."""

import inspect
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from stn_lightning import distortions, transformers
from stn_lightning.distortions import (
    Augmented,
    Cluttered,
    CounterRandom,
    Distortion,
    Elastic,
    Perspective,
    RandomPose3D,
    Rotated,
    RotatedScaledTranslated,
)
from stn_lightning.geometry import (
    affine,
    alignment,
    antialiasing,
    deterministic,
    diffeomorphic,
    equivariance,
    measures,
    moments,
    overlap,
    projective,
    sampling,
    thin_plate_spline,
    volume,
    wide,
)
from stn_lightning.transformers import (
    Affine,
    Affine3D,
    Antialiased,
    Attention,
    Bicubic,
    Bilinear,
    BoundedFamily,
    ComposedTransformer,
    ConvolutionalLocalisation,
    Diffeomorphic,
    Family,
    FeatureLocalisation,
    FullyConnectedLocalisation,
    HeatmapLocalisation,
    LearntTargetGrid,
    MomentLocalisation,
    Nearest,
    ParallelTransformer,
    Projective,
    Sampler,
    Similarity,
    SpatialTransformer,
    StridedLocalisation,
    SVHNLocalisation,
    ThinPlateSpline,
    Transformer,
    Translation,
    Trilinear,
    VolumeLocalisation,
    WideGradient,
)
from tests.transformers.doubles import awaken

IMAGE, GRID, VOLUME = torch.zeros(0, 3, 60, 60), torch.zeros(0, 6, 7, 2), torch.zeros(0, 1, 9, 9, 9)
AFFINE, HOMOGRAPHY, IN_SPACE = torch.zeros(0, 6), torch.zeros(0, 8), torch.zeros(0, 12)
SPLINE, POINTS = torch.zeros(0, 32), thin_plate_spline.control_points()
BASIS = thin_plate_spline.basis(POINTS, (6, 7))
PADDINGS: list[sampling.Padding] = ["zeros", "border", "reflection", [0.1, 0.2, 0.3]]

OPERATIONS: dict[str, Callable[[], object]] = {
    "affine.grid": lambda: affine.grid(AFFINE, (6, 7)),
    "affine.map_points": lambda: affine.map_points(AFFINE, torch.zeros(1, 6, 7, 2)),
    "affine.compose": lambda: affine.compose(AFFINE, AFFINE),
    "affine.inverse": lambda: affine.inverse(AFFINE),
    "affine.from_translation": lambda: affine.from_translation(torch.zeros(0, 2), 0.5),
    "affine.from_attention": lambda: affine.from_attention(torch.zeros(0, 3)),
    "affine.to_attention": lambda: affine.to_attention(AFFINE),
    "affine.from_similarity": lambda: affine.from_similarity(torch.zeros(0, 4)),
    "affine.to_similarity": lambda: affine.to_similarity(AFFINE),
    "projective.grid": lambda: projective.grid(HOMOGRAPHY, (6, 7)),
    "projective.compose": lambda: projective.compose(HOMOGRAPHY, HOMOGRAPHY),
    "projective.inverse": lambda: projective.inverse(HOMOGRAPHY),
    "projective.from_affine": lambda: projective.from_affine(AFFINE),
    "projective.from_corners": lambda: projective.from_corners(torch.zeros(0, 4, 2)),
    "volume.grid": lambda: volume.grid(IN_SPACE, (4, 5, 6)),
    "volume.compose": lambda: volume.compose(IN_SPACE, IN_SPACE),
    "volume.inverse": lambda: volume.inverse(IN_SPACE),
    "thin_plate_spline.grid": lambda: thin_plate_spline.grid(SPLINE, BASIS, (6, 7)),
    "thin_plate_spline.displacement": lambda: thin_plate_spline.displacement(SPLINE, BASIS, (6, 7)),
    "diffeomorphic.grid": lambda: diffeomorphic.grid(GRID, (6, 7)),
    "sampling.bilinear": lambda: [sampling.bilinear(IMAGE, GRID, p) for p in PADDINGS],
    "sampling.nearest": lambda: [sampling.nearest(IMAGE, GRID, p) for p in PADDINGS],
    "sampling.bicubic": lambda: [sampling.bicubic(IMAGE, GRID, p) for p in PADDINGS],
    "sampling.sample_on_colour": lambda: sampling.sample_on_colour(
        IMAGE, [0.5], lambda image: sampling.bilinear(image, GRID)
    ),
    "sampling.trilinear": lambda: [
        sampling.trilinear(VOLUME, torch.zeros(0, 2, 3, 4, 3), p) for p in (*PADDINGS[:3], [0.1])
    ],
    "sampling.restore_format": lambda: sampling.restore_format(IMAGE, IMAGE),
    "antialiasing.sample_antialiased": lambda: [
        antialiasing.sample_antialiased(IMAGE, GRID, p, n) for p in PADDINGS for n in (1, 2)
    ],
    "deterministic.deterministic_sample": lambda: deterministic.deterministic_sample(IMAGE, GRID),
    "deterministic.gather_sample": lambda: deterministic.gather_sample(IMAGE, GRID),
    "wide.widen_gradient": lambda: [
        wide.widen_gradient(sampling.bilinear(IMAGE, GRID), IMAGE, GRID, p) for p in PADDINGS
    ],
    "wide.blur_image": lambda: [wide.blur_image(IMAGE, p) for p in PADDINGS],
    "moments.moments": lambda: moments.moments(IMAGE),
    "measures.fraction_out_of_bounds": lambda: measures.fraction_out_of_bounds(GRID),
    "measures.out_of_bounds_penalty": lambda: measures.out_of_bounds_penalty(GRID),
    "measures.displacement": lambda: measures.displacement(GRID, (28, 28)),
    "measures.scales": lambda: measures.scales(GRID, (28, 28)),
    "measures.is_mirrored": lambda: measures.is_mirrored(GRID),
    "equivariance.equivariance_penalty": lambda: equivariance.equivariance_penalty(
        GRID, GRID, AFFINE
    ),
    "overlap.outline": lambda: overlap.outline(GRID),
    "overlap.contains_points": lambda: overlap.contains_points(GRID, torch.zeros(0, 5, 2)),
    "overlap.contains_lattice": lambda: overlap.contains_lattice(GRID, 5),
    "overlap.intersection_over_union": lambda: overlap.intersection_over_union(GRID[:, None]),
    "overlap.overlap_penalty": lambda: overlap.overlap_penalty(GRID[:, None]),
}

NO_BATCH = {"sampling.padding_colour", "thin_plate_spline.control_points"}
NO_BATCH |= {"sampling.check_padding", "sampling.require_images"}
NO_BATCH |= {"thin_plate_spline.solve", "thin_plate_spline.basis"}
OF_A_BATCH = {"measures.spread"}
"""A standard deviation over the batch: NaN where there is none."""


@pytest.mark.parametrize("name", OPERATIONS)
def test_an_operation_returns_a_batch_of_0(name: str) -> None:
    results = OPERATIONS[name]()
    for result in results if isinstance(results, list) else [results]:
        assert isinstance(result, Tensor)
        assert len(result) == 0


def test_the_operations_are_all_public_ones() -> None:
    modules = (affine, antialiasing, deterministic, diffeomorphic, equivariance, measures, moments)
    found = {
        f"{module.__name__.rsplit('.')[-1]}.{name}"
        for module in (*modules, overlap, projective, sampling, thin_plate_spline, volume, wide)
        for name, value in vars(module).items()
        if inspect.isfunction(value)
        and value.__module__ == module.__name__
        and not name.startswith("_")
    }
    assert found - NO_BATCH - OF_A_BATCH == set(OPERATIONS)


def fully_connected() -> FullyConnectedLocalisation:
    return FullyConnectedLocalisation([8])


FAMILIES: list[Family] = [
    Translation(0.5),
    Attention(),
    Similarity(),
    Affine(),
    Projective(),
    ThinPlateSpline(),
    Diffeomorphic(),
    LearntTargetGrid(),
    BoundedFamily(Attention(), [0.2, -0.8, -0.8], [1.2, 0.8, 0.8]),
]
SAMPLERS: list[Callable[[sampling.Padding], Sampler]] = [
    Bilinear,
    Nearest,
    Bicubic,
    Antialiased,
    lambda padding: WideGradient(Bilinear(padding)),
]
TRANSFORMERS: list[Transformer] = [
    *(SpatialTransformer(fully_connected(), family, (6, 7)) for family in FAMILIES),
    *(
        kind(fully_connected(), Affine(), n, (6, 7), make(padding))
        for kind, n in ((ParallelTransformer, 3), (ComposedTransformer, 2))
        for make in SAMPLERS
        for padding in PADDINGS
    ),
    SpatialTransformer(fully_connected(), Affine3D(), (4, 5, 6), Trilinear()),
    ParallelTransformer(fully_connected(), Affine3D(), 2, (4, 5, 6), Trilinear()),
]


@pytest.mark.parametrize("transformer", TRANSFORMERS, ids=lambda value: type(value).__name__)
def test_a_transformer_warps_and_trains_on_a_batch_of_0(transformer: Transformer) -> None:
    image = VOLUME if transformer.family.dimensions == 3 else IMAGE
    filled = torch.rand(2, *image.shape[1:])
    awaken(transformer, filled)
    assert transformer(image).shape == (0, *transformer(filled).shape[1:])
    assert all(len(value) == 0 for value in transformer.warp(image))
    transformer(image).sum().backward()


def features() -> nn.Module:
    return nn.Conv2d(3, 4, 3)


LOCALISATIONS: list[nn.Module] = [
    fully_connected(),
    ConvolutionalLocalisation(),
    FeatureLocalisation(features(), shrink=2),
    HeatmapLocalisation(features(), 2),
    MomentLocalisation(fully_connected()),
    SVHNLocalisation(4),
    StridedLocalisation(),
    VolumeLocalisation(shrink=1),
    VolumeLocalisation(shrink=1, block=2, kernel_size=3),
]


@pytest.mark.parametrize("localisation", LOCALISATIONS, ids=lambda value: type(value).__name__)
def test_a_localisation_returns_features_of_a_batch_of_0(localisation: nn.Module) -> None:
    image = torch.zeros(0, 1, 20, 20, 20) if isinstance(localisation, VolumeLocalisation) else IMAGE
    expected = localisation(torch.rand(2, *image.shape[1:])).shape[1:]
    image = image.clone().requires_grad_()  # as the output of another transformer
    found = localisation(image)
    assert found.shape == (0, *expected)
    found.sum().backward()


DISTORTIONS: list[Distortion] = [
    Rotated(),
    RotatedScaledTranslated(),
    Perspective(),
    Elastic(),
    Cluttered(),
    Augmented(Rotated(), Elastic()),
    RandomPose3D(20),
]


@pytest.mark.parametrize("distortion", DISTORTIONS, ids=lambda value: type(value).__name__)
@pytest.mark.parametrize("pool", [0, 3])
def test_a_distortion_returns_a_batch_of_0(distortion: Distortion, pool: int) -> None:
    randomness = CounterRandom(0, 0, 0, torch.zeros(0, dtype=torch.int64))
    images = torch.zeros(pool, 1, 28, 28, dtype=torch.uint8)
    assert distortion(torch.zeros(0, 1, 28, 28), randomness, images).shape == (
        0,
        1,
        *distortion.shape,
    )


@pytest.mark.parametrize(
    ("subpackage", "base", "tried"),
    [
        (transformers, nn.Module, [*TRANSFORMERS, *LOCALISATIONS, *FAMILIES]),
        (distortions, Distortion, DISTORTIONS),
    ],
)
def test_all_public_modules_are_tried(
    subpackage: object, base: type, tried: list[nn.Module]
) -> None:
    public = {
        value
        for name in getattr(subpackage, "__all__")  # noqa: B009
        if isinstance(value := getattr(subpackage, name), type)
        and issubclass(value, base)
        and not getattr(value, "__abstractmethods__", None)
    }
    parts = {type(part) for module in tried for part in module.modules()}
    assert public <= parts


def test_alignment_of_no_image_is_not_a_number() -> None:
    assert len(alignment.pose(AFFINE, (28, 28)).angle) == 0
    assert len(alignment.nearest_affine(GRID)) == 0

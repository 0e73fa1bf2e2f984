import copy
import inspect
import io
import pickle

import pytest
import torch
from torch import Tensor, nn

from stn_lightning.geometry import lattice, sampling
from stn_lightning.transformers import (
    Affine,
    Affine3D,
    Attention,
    Bicubic,
    Bilinear,
    ComposableFamily,
    ComposedTransformer,
    Family,
    FullyConnectedLocalisation,
    Projective,
    Similarity,
    SpatialTransformer,
    ThinPlateSpline,
    Translation,
    Trilinear,
)
from tests.transformers.doubles import At, Script, awaken

FAMILIES: list[ComposableFamily] = [Attention(), Similarity(), Affine(), Projective()]

all_families = pytest.mark.parametrize("family", FAMILIES, ids=lambda family: type(family).__name__)

SHIFT = [1.0, 0, 2 / 3, 0, 1, 0]  # by two pixels of six
TURN = [0.0, -1, 0, 1, 0, 0]


def warped(image: Tensor, *theta: float) -> Tensor:
    return sampling.bilinear(
        image,
        Affine()(torch.tensor([theta]).expand(len(image), -1), (image.shape[2], image.shape[3])),
    )


def scripted(*corrections: list[float], steps: int) -> tuple[ComposedTransformer, Script]:
    """A transformer that makes these affine corrections, one at each step."""
    script = Script(
        *[
            [c - i for c, i in zip(correction, Affine.identity, strict=True)]
            for correction in corrections
        ]
    )
    network = ComposedTransformer(script, Affine(), steps)
    network(torch.rand(1, 1, 6, 6))
    script.seen.clear()
    nn.init.eye_(network.regression.linear.weight)
    return network, script


@all_families
def test_one_step_is_a_spatial_transformer(family: ComposableFamily) -> None:
    image = torch.rand(2, 3, 10, 12)
    single = SpatialTransformer(FullyConnectedLocalisation([8]), family)
    awaken(single, image)
    composed = ComposedTransformer(FullyConnectedLocalisation([8]), family, steps=1)
    composed.load_state_dict(single.state_dict())
    for ours, theirs in zip(composed.warp(image), single.warp(image), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0)
    assert not torch.equal(single(image), image)


@pytest.mark.parametrize("steps", [1, 2, 4])
@all_families
def test_an_untrained_transformer_returns_its_image_bit_for_bit(
    family: ComposableFamily, steps: int
) -> None:
    image = torch.rand(2, 3, 28, 45)
    assert torch.equal(
        ComposedTransformer(FullyConnectedLocalisation([8]), family, steps)(image), image
    )


def test_an_untrained_transformer_returns_its_volume_bit_for_bit() -> None:
    content = torch.rand(2, 1, 4, 5, 6)
    assert torch.equal(
        ComposedTransformer(FullyConnectedLocalisation([8]), Affine3D(), 2, None, Trilinear())(
            content
        ),
        content,
    )


def test_the_localisation_gets_its_own_input_warped_at_each_step() -> None:
    image, features = torch.rand(2, 3, 6, 6), torch.rand(2, 1, 6, 6)
    network, script = scripted(SHIFT, TURN, steps=2)
    result = network(image, features)
    assert torch.equal(script.seen[0], features)
    assert torch.equal(script.seen[1], warped(features, *SHIFT))
    script.seen.clear()
    assert torch.equal(result, network(image))


def test_convention_a_correction_refers_to_what_the_localisation_saw() -> None:
    image = torch.rand(2, 1, 6, 6)
    network, script = scripted(SHIFT, TURN, steps=2)
    result = network(image)
    assert torch.equal(script.seen[0], image)
    assert torch.equal(script.seen[1], warped(image, *SHIFT))
    assert torch.equal(
        result, warped(warped(image, *SHIFT), *TURN)
    )  # whole pixels and quarter turns lose nothing
    assert not torch.equal(result, warped(warped(image, *TURN), *SHIFT))


def test_the_original_is_resampled_and_not_the_last_look() -> None:
    image = torch.rand(2, 1, 6, 6)
    half_a_pixel = [1.0, 0, 1 / 6, 0, 1, 0]
    there_and_back = [half_a_pixel, [1.0, 0, -1 / 6, 0, 1, 0]]
    network, script = scripted(*there_and_back, steps=2)
    torch.testing.assert_close(network(image), image, rtol=0, atol=1e-6)
    in_a_row = warped(script.seen[1], *there_and_back[1])
    assert (in_a_row - image).abs().max() > 0.1  # blurred twice


@all_families
def test_the_result_is_the_composition_of_all_corrections_applied_once(
    family: ComposableFamily,
) -> None:
    image = torch.rand(2, 3, 10, 12)
    network = ComposedTransformer(FullyConnectedLocalisation([8]), family, steps=3)
    awaken(network, image)
    theta = torch.tensor([family.identity] * 2)
    for _ in range(3):
        seen = sampling.bilinear(image, family(theta, (10, 12)))
        theta = family.compose(theta, network.regression(network.localisation(seen))[:, 0])
    warp = network.warp(image)
    torch.testing.assert_close(warp.theta, theta, rtol=0, atol=1e-6)
    torch.testing.assert_close(
        warp.image, sampling.bilinear(image, family(theta, (10, 12))), rtol=0, atol=1e-5
    )


def test_the_start_is_the_first_correction_at_each_step() -> None:
    start = At([0.5, 0.25, 0.0])
    network = ComposedTransformer(FullyConnectedLocalisation([8]), Attention(), 2, start=start)
    assert network.warp(torch.rand(1, 1, 8, 8)).theta.tolist() == [[0.25, 0.375, 0.0]]


def test_size_is_that_of_the_output_and_of_every_look() -> None:
    script = Script([0.0])
    network = ComposedTransformer(script, Affine(), 2, (5, 9), Bicubic("border"))
    image = torch.rand(2, 1, 10, 12)
    assert network(image).shape == (2, 1, 5, 9)
    assert [seen.shape for seen in script.seen] == [(2, 1, 5, 9)] * 2
    expected = sampling.bicubic(
        image, lattice.points((5, 9), image).expand(2, -1, -1, -1), "border"
    )
    assert torch.equal(script.seen[0], expected)


def test_gradients_reach_the_localisation_through_every_step() -> None:
    image = torch.rand(2, 1, 6, 6)
    network, script = scripted(
        [1.0, 0.1, 0.05, 0, 0.9, 0.02], [0.9, 0, -0.05, 0.1, 1, 0.03], steps=2
    )
    script.lines = [line.requires_grad_() for line in script.lines]
    network(image).square().sum().backward()
    assert all(line.grad is not None and line.grad.all() for line in script.lines)


def test_checkpoints_copies_and_pickles_behave_like_the_original() -> None:
    image = torch.rand(2, 3, 10, 12)
    trained = ComposedTransformer(FullyConnectedLocalisation([8]), Similarity(), 2)
    awaken(trained, image)
    file = io.BytesIO()
    torch.save(trained.state_dict(), file)
    file.seek(0)
    fresh = ComposedTransformer(FullyConnectedLocalisation([8]), Similarity(), 2)
    fresh.load_state_dict(torch.load(file, weights_only=True))
    for other in (fresh, copy.deepcopy(trained), pickle.loads(pickle.dumps(trained))):
        assert torch.equal(other(image), trained(image))


def test_theta_is_float32_and_exact_under_bf16_autocast() -> None:
    network = ComposedTransformer(FullyConnectedLocalisation([8]), Projective(), 3)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        theta = network.warp(torch.rand(2, 1, 9, 9)).theta
    assert theta.dtype == torch.float32
    assert theta.tolist() == [list(Projective.identity)] * 2


@pytest.mark.parametrize("steps", [0, -1])
def test_fewer_than_one_step_is_refused(steps: int) -> None:
    with pytest.raises(ValueError, match="a composed transformer takes 1 step or more"):
        ComposedTransformer(FullyConnectedLocalisation([8]), Affine(), steps)


@pytest.mark.parametrize(
    "family", [Translation(0.5), ThinPlateSpline()], ids=lambda family: type(family).__name__
)
def test_a_family_that_is_not_closed_under_composition_is_refused_with_advice(
    family: Family,
) -> None:
    unchecked = inspect.unwrap(
        ComposedTransformer.__init__
    )  # under test, the type checker would be first to refuse
    with pytest.raises(
        ValueError,
        match=f"{type(family).__name__} is not closed under composition; take Affine, Similarity",
    ):
        unchecked(
            ComposedTransformer.__new__(ComposedTransformer),
            FullyConnectedLocalisation([8]),
            family,
            2,
            sampler=Bilinear(),
        )

import copy
import io
import pickle

import pytest
import torch
from torch import Tensor, nn

from stn_lightning.transformers import (
    Affine,
    Affine3D,
    Bicubic,
    Family,
    FullyConnectedLocalisation,
    NoisyIdentity,
    ParallelTransformer,
    Projective,
    SpatialTransformer,
    ThinPlateSpline,
    Tiling,
    Translation,
    Trilinear,
)
from tests.transformers.doubles import awaken

N = 3
SHARED = pytest.param(1, id="shared")
OWN = pytest.param(N, id="own")


def localisations(how_many: int) -> nn.Module | list[nn.Module]:
    several: list[nn.Module] = [FullyConnectedLocalisation([8]) for _ in range(how_many)]
    return several if how_many > 1 else several[0]


def awake(how_many: int, family: Family | None = None) -> ParallelTransformer:
    network = ParallelTransformer(
        localisations(how_many), family or Affine(), N, start=NoisyIdentity(0.1)
    )
    awaken(network, torch.rand(1, 2, 10, 12))
    return network


def alone(parallel: ParallelTransformer, i: int) -> SpatialTransformer:
    """The i-th of the parallel transformers as one by itself, with the same weights."""
    shared = len(parallel.localisations) == 1
    single = SpatialTransformer(
        parallel.localisations[0 if shared else i], parallel.family, parallel.size, parallel.sampler
    )
    regression = parallel.regressions[0 if shared else i]
    assert isinstance(regression.start, Tensor)
    numbers = regression.start.shape[1]
    rows = slice(i * numbers, (i + 1) * numbers) if shared else slice(None)
    single.regression.start = regression.start[i if shared else 0][None]
    assert isinstance(regression.linear, nn.Linear)
    single.load_state_dict(
        {
            "regression.linear.weight": regression.linear.weight[rows],
            "regression.linear.bias": regression.linear.bias[rows],
        },
        strict=False,
    )
    return single


@pytest.mark.parametrize(
    "family", [Affine(), Projective(), ThinPlateSpline()], ids=lambda family: type(family).__name__
)
@pytest.mark.parametrize("how_many", [SHARED, OWN])
def test_n_in_parallel_equal_n_alone(how_many: int, family: Family) -> None:
    image, parallel = torch.rand(2, 2, 10, 12), awake(how_many, family)
    together = parallel.warp(image)
    assert together.image.shape == (2, N, 2, 10, 12)
    assert together.theta.shape == (2, N, len(family.identity))
    assert together.grid.shape == (2, N, 10, 12, 2)
    assert (
        len(together.theta.flatten(0, 1).unique(dim=0)) == 2 * N
    )  # every image and every transformer has its own
    for i in range(N):
        single = alone(parallel, i).warp(image)
        torch.testing.assert_close(together.theta[:, i], single.theta, rtol=0, atol=1e-6)
        torch.testing.assert_close(together.grid[:, i], single.grid, rtol=0, atol=1e-6)
        torch.testing.assert_close(together.image[:, i], single.image, rtol=0, atol=1e-5)


def test_own_localisations_are_independent_of_each_other() -> None:
    parallel, image = awake(N), torch.rand(2, 2, 10, 12)
    before = parallel(image)
    before[:, 1].square().sum().backward()
    for i in range(N):
        gradients = [
            p.grad
            for part in (parallel.localisations[i], parallel.regressions[i])
            for p in part.parameters()
        ]
        assert [g is not None and bool(g.any()) for g in gradients] == [i == 1] * 4
    with torch.no_grad():
        for parameter in parallel.localisations[1].parameters():
            parameter.zero_()
    changed = (parallel(image) != before).flatten(2).any(2).any(0)
    assert changed.tolist() == [False, True, False]


def test_a_shared_localisation_runs_once_and_serves_all() -> None:
    parallel, image = awake(1), torch.rand(2, 2, 10, 12)
    calls = []
    parallel.localisations[0].register_forward_hook(lambda *_: calls.append(1))
    parallel(image)
    assert len(calls) == 1
    assert len(parallel.localisations) == 1


@pytest.mark.parametrize("how_many", [SHARED, OWN])
def test_at_first_each_returns_the_image_bit_for_bit(how_many: int) -> None:
    image = torch.rand(2, 2, 28, 45)
    seen = ParallelTransformer(localisations(how_many), Affine(), N)(image)
    assert torch.equal(seen, image[:, None].expand(-1, N, -1, -1, -1))


@pytest.mark.parametrize("how_many", [pytest.param(1, id="shared"), pytest.param(4, id="own")])
def test_four_crops_that_tile_are_the_four_quarters_bit_for_bit(how_many: int) -> None:
    image = torch.rand(2, 3, 28, 60)
    seen = ParallelTransformer(
        localisations(how_many), Translation(0.5), 4, (14, 30), start=Tiling()
    )(image)
    upper, lower = image.chunk(2, 2)
    assert torch.equal(seen, torch.stack([*upper.chunk(2, 3), *lower.chunk(2, 3)], 1))


@pytest.mark.parametrize("how_many", [SHARED, OWN])
def test_each_starts_at_its_own_theta(how_many: int) -> None:
    parallel = ParallelTransformer(
        localisations(how_many), Affine(), N, start=NoisyIdentity(0.1, seed=2)
    )
    theta = parallel.warp(torch.rand(2, 1, 9, 9)).theta
    assert torch.equal(theta, NoisyIdentity(0.1, seed=2).theta(Affine(), N).expand(2, -1, -1))


@pytest.mark.parametrize("size", [(1, 1), (5, 9), (31, 40)], ids=str)
def test_the_output_size_is_free(size: tuple[int, int]) -> None:
    image = torch.rand(2, 2, 10, 12)
    seen = ParallelTransformer(localisations(1), Affine(), N, size, Bicubic("border"))(image)
    single = SpatialTransformer(FullyConnectedLocalisation([8]), Affine(), size, Bicubic("border"))(
        image
    )
    assert torch.equal(seen, single[:, None].expand(-1, N, -1, -1, -1))


def test_volumes_are_warped_in_parallel_too() -> None:
    content = torch.rand(2, 1, 4, 5, 6)
    network = ParallelTransformer(localisations(1), Affine3D(), N, sampler=Trilinear())
    assert torch.equal(network(content), content[:, None].expand(-1, N, -1, -1, -1, -1))


def test_streams_of_a_channels_last_image_are_channels_last_when_merged_into_the_batch() -> None:
    image = torch.rand(2, 2, 10, 12).contiguous(memory_format=torch.channels_last)
    assert awake(1)(image).flatten(0, 1).is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("how_many", [SHARED, OWN])
def test_checkpoints_copies_and_pickles_behave_like_the_original(how_many: int) -> None:
    trained, image = awake(how_many), torch.rand(2, 2, 10, 12)
    file = io.BytesIO()
    torch.save(trained.state_dict(), file)
    file.seek(0)
    fresh = ParallelTransformer(localisations(how_many), Affine(), N, start=NoisyIdentity(0.1))
    fresh.load_state_dict(torch.load(file, weights_only=True))
    for other in (fresh, copy.deepcopy(trained), pickle.loads(pickle.dumps(trained))):
        assert torch.equal(other(image), trained(image))


def test_theta_is_float32_under_bf16_autocast() -> None:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        warp = awake(N).warp(torch.rand(2, 2, 10, 12))
    assert warp.theta.dtype == warp.grid.dtype == torch.float32


def test_a_list_of_the_wrong_length_is_refused_with_advice() -> None:
    with pytest.raises(
        ValueError,
        match="2 localisations for 3 transformers; give one to share, or a list of 3",
    ):
        ParallelTransformer(localisations(2), Affine(), 3)


@pytest.mark.parametrize("n", [0, -1])
def test_fewer_than_one_is_refused(n: int) -> None:
    with pytest.raises(ValueError, match="parallel transformers; give 1 or more"):
        ParallelTransformer(localisations(1), Affine(), n)


def test_a_start_that_cannot_place_the_family_is_refused_at_construction() -> None:
    with pytest.raises(ValueError, match="Affine cannot be tiled; take Translation or Attention"):
        ParallelTransformer(localisations(1), Affine(), 4, start=Tiling())

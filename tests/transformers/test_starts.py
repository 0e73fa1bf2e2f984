import pytest
import torch
from torch import Tensor, nn

from stn_lightning.geometry import sampling
from stn_lightning.transformers import (
    Affine,
    Affine3D,
    Attention,
    BoundedFamily,
    Family,
    HeatmapCentres,
    HeatmapLocalisation,
    Identity,
    InitialTheta,
    NoisyIdentity,
    ParallelTransformer,
    Projective,
    Similarity,
    SpatialTransformer,
    ThinPlateSpline,
    Tiling,
    Translation,
)
from stn_lightning.transformers.transformer import Regression


def crops(family: Family, start: Tiling, image: Tensor, n: int, size: tuple[int, int]) -> Tensor:
    """(n, channels, *size)"""
    return sampling.bilinear(image.expand(n, -1, -1, -1), family(start.theta(family, n), size))


def test_identity_is_the_familys_identity_for_each() -> None:
    assert Identity().theta(Affine(), 2).tolist() == [[1, 0, 0, 0, 1, 0]] * 2


@pytest.mark.parametrize("family", [Affine(), Translation(0.5), ThinPlateSpline()])
def test_disturbed_is_the_same_for_a_seed_and_different_for_another(family: Family) -> None:
    start = NoisyIdentity(0.1, seed=3).theta(family, 4)
    torch.manual_seed(7)  # must not matter
    assert torch.equal(NoisyIdentity(0.1, seed=3).theta(family, 4), start)
    assert not torch.isclose(NoisyIdentity(0.1, seed=4).theta(family, 4), start).any()


def test_disturbed_leaves_the_global_random_numbers_alone() -> None:
    before = torch.get_rng_state()
    NoisyIdentity(0.1).theta(Affine(), 4)
    assert torch.equal(torch.get_rng_state(), before)


def test_disturbed_starts_parallel_transformers_apart() -> None:
    start = NoisyIdentity(0.1).theta(Affine(), 4)
    assert len(start.unique(dim=0)) == 4


def test_disturbed_scatters_around_the_identity_with_its_standard_deviation() -> None:
    noise = NoisyIdentity(0.1).theta(Affine(), 5000) - torch.tensor(Affine.identity)
    torch.testing.assert_close(noise.mean(0), torch.zeros(6), rtol=0, atol=0.005)
    torch.testing.assert_close(noise.std(0), torch.full((6,), 0.1), rtol=0, atol=0.005)


@pytest.mark.parametrize("size", [(28, 28), (60, 42), (224, 224), (30, 448)], ids=str)
def test_four_crops_of_half_the_side_are_the_four_quarters_bit_for_bit(
    size: tuple[int, int],
) -> None:
    height, width = size
    image = torch.rand(1, 3, *size)
    seen = crops(Translation(0.5), Tiling(), image, 4, (height // 2, width // 2))
    upper, lower = image.chunk(2, 2)
    expected = torch.cat([*upper.chunk(2, 3), *lower.chunk(2, 3)])
    assert torch.equal(seen, expected)


@pytest.mark.parametrize("n", [1, 4, 9, 16])
def test_attention_tiles_with_a_square_number_of_crops(n: int) -> None:
    side = round(n**0.5)
    image = torch.rand(1, 3, 12, 24)
    seen = crops(Attention(), Tiling(), image, n, (12 // side, 24 // side))
    rows = [torch.cat(list(row), 2) for row in seen.unflatten(0, (side, side))]
    torch.testing.assert_close(torch.cat(rows, 1)[None], image, rtol=0, atol=1e-6)


def test_two_crops_stand_left_and_right() -> None:
    assert Tiling().theta(Translation(0.5), 2).tolist() == [[-0.5, 0], [0.5, 0]]


def test_six_crops_stand_in_two_rows_of_three_in_reading_order() -> None:
    third = 2 / 3
    expected = [[x, y] for y in (-0.5, 0.5) for x in (-third, 0, third)]
    torch.testing.assert_close(Tiling().theta(Translation(0.5), 6), torch.tensor(expected))


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 6, 8, 9])
def test_crops_of_attention_leave_no_place_unseen(n: int) -> None:
    grid = Attention()(Tiling().theta(Attention(), n), (400, 400)).flatten(0, 2)
    counts = torch.histogramdd(grid, [8, 8], range=[-1.0, 1.0, -1.0, 1.0]).hist
    assert (counts > 0).all()


@pytest.mark.parametrize("family", [Affine(), Similarity(), Projective(), ThinPlateSpline()])
def test_families_that_tiling_cannot_place_are_refused_with_advice(family: Family) -> None:
    with pytest.raises(ValueError, match=f"{type(family).__name__} cannot be tiled; take Trans"):
        Tiling().theta(family, 4)


def test_a_stated_start_is_where_a_transformer_begins_bounded_or_not() -> None:
    start = InitialTheta([0.4, 0.1, -0.2])
    torch.testing.assert_close(
        start.theta(Attention(), 2), torch.tensor([[0.4, 0.1, -0.2]]).expand(2, -1)
    )
    bounded = BoundedFamily(Attention(), [0.3, -0.6, -0.6], [1.1, 0.6, 0.6])
    torch.testing.assert_close(bounded.bound(start.theta(bounded, 2)), start.theta(Attention(), 2))
    with pytest.raises(ValueError, match="a start of 3 numbers for Affine, whose theta has 6"):
        start.theta(Affine(), 1)


MOVABLE = [Translation(0.5), Attention(), Similarity(), Affine(), Projective(), ThinPlateSpline()]


@pytest.mark.parametrize("family", MOVABLE, ids=lambda family: type(family).__name__)
def test_convention_a_followers_middle_is_its_place_and_its_shape_stays(family: Family) -> None:
    transformer = ParallelTransformer(nn.Identity(), family, 2, (6, 8), start=HeatmapCentres())
    places = torch.rand(5, 2, 2) - 0.5  # (B, n, x y), of a localisation that has found them
    grid = transformer.regressions[0](places.flatten(1))
    grid = family(grid.flatten(0, 1), (6, 8)).unflatten(0, (5, 2))
    still = family(Identity().theta(family, 1), (6, 8))
    torch.testing.assert_close(
        grid, (still + places.flatten(0, 1)[:, None, None]).unflatten(0, (5, 2)), rtol=0, atol=1e-5
    )


def test_a_follower_keeps_the_scale_that_it_is_told() -> None:
    regression = Regression(HeatmapCentres(InitialTheta([0.4, 0.1, 0.0])), Attention(), 1)
    torch.testing.assert_close(
        regression(torch.tensor([[0.2, -0.3]])), torch.tensor([[[0.4, 0.3, -0.3]]])
    )


def test_with_localisations_of_their_own_each_follows_its_first_place() -> None:
    finds = [HeatmapLocalisation(nn.Identity(), 1), HeatmapLocalisation(nn.Identity(), 1)]
    transformer, image = (
        ParallelTransformer(list(finds), Translation(0.5), 2, (4, 4), start=HeatmapCentres()),
        torch.rand(3, 2, 9, 9),
    )
    theta = transformer.warp(image).theta
    torch.testing.assert_close(theta, torch.stack([find(image) for find in finds], 1))
    assert not torch.equal(theta[:, 0], theta[:, 1])


def test_followers_turn_to_no_other_place_while_their_localisation_learns() -> None:
    localisation = HeatmapLocalisation(nn.Identity(), 1)
    transformer = SpatialTransformer(localisation, Translation(0.5), (4, 4), start=HeatmapCentres())
    image = torch.rand(3, 1, 9, 9)
    transformer(image)
    before, heat = transformer.regression.linear.weight.clone(), localisation.conv.weight.clone()
    optimizer = torch.optim.SGD(transformer.parameters(), 1.0, weight_decay=0.1)
    transformer(image).sum().backward()
    optimizer.step()
    assert torch.equal(transformer.regression.linear.weight, before)
    assert not torch.equal(localisation.conv.weight, heat)


def test_a_follower_that_was_loaded_still_learns_no_other_place() -> None:
    saved, fresh = (Regression(HeatmapCentres(), Translation(0.5), 2) for _ in range(2))
    places = torch.rand(3, 4)
    expected = saved(places)
    fresh.load_state_dict(saved.state_dict())
    assert torch.equal(fresh(places), expected)
    assert not any(parameter.requires_grad for parameter in fresh.parameters())


@pytest.mark.parametrize("localisation", [HeatmapLocalisation(nn.Identity(), 1), nn.Flatten()])
def test_features_that_are_not_a_place_for_each_are_refused_with_advice(
    localisation: nn.Module,
) -> None:
    transformer = ParallelTransformer(localisation, Translation(0.5), 2, start=HeatmapCentres())
    with pytest.raises(
        ValueError,
        match=r"needs 4 features, x and y of 2 centres, and got \d+; take HeatmapLocalisation",
    ):
        transformer(torch.rand(2, 3, 8, 8))


def test_followers_in_space_are_refused() -> None:
    with pytest.raises(
        ValueError, match="moves crops in a plane, not in 3 dimensions; take another start"
    ):
        SpatialTransformer(nn.Flatten(), Affine3D(), start=HeatmapCentres())


def test_a_follower_finds_a_square_anywhere_because_looking_at_it_pays() -> None:
    torch.manual_seed(0)
    image, corner = torch.zeros(64, 1, 24, 24), torch.randint(0, 19, (64, 2))
    for original, (y, x) in zip(image, corner.tolist(), strict=True):
        original[:, y : y + 6, x : x + 6] = 1
    localisation = HeatmapLocalisation(nn.Conv2d(1, 4, 5, 2, 2), 1)
    transformer = SpatialTransformer(
        localisation, Translation(0.25), (6, 6), start=HeatmapCentres()
    )
    transformer(image)
    optimizer = torch.optim.Adam(transformer.parameters(), 0.03)
    for _ in range(60):
        optimizer.zero_grad()
        (-transformer(image).mean()).backward()
        optimizer.step()
    middle = transformer.warp(image).theta.flip(1)  # (y, x)
    torch.testing.assert_close(middle * 12, corner + 3.0 - 12, rtol=0, atol=1.5)

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from torch import Tensor
from torch.utils.data import Dataset

from stn_lightning.datamodules import EpochBatches, ResumableLoader
from stn_lightning.datamodules.batches import Draw

workers = pytest.mark.parametrize("workers", [0, 2])


def epoch_of(batches: EpochBatches, epoch: int) -> list[Draw]:
    batches.set_epoch(epoch)
    return list(batches)


def together(parts: tuple[Draw, ...]) -> list[int]:
    """The global batch, from what each process has of it."""
    return sorted(torch.cat([part.indices for part in parts]).tolist())


@given(
    st.integers(1, 200),
    st.integers(1, 70),
    st.booleans(),
    st.integers(0, 2**32 - 1),
    st.integers(0, 1000),
)
def test_every_image_comes_exactly_once_an_epoch(
    n: int, batch_size: int, shuffle: bool, seed: int, epoch: int
) -> None:
    draws = epoch_of(EpochBatches(range(n), batch_size, shuffle=shuffle, seed=seed), epoch)
    assert sorted(torch.cat([draw.indices for draw in draws]).tolist()) == list(range(n))


@given(st.integers(1, 200), st.integers(1, 70))
def test_batches_have_the_size_that_was_asked_for_or_evenly_less(n: int, batch_size: int) -> None:
    batches = EpochBatches(range(n), batch_size, shuffle=True)
    sizes = [len(draw.indices) for draw in batches]
    assert len(sizes) == len(batches) == -(-n // batch_size)
    assert max(sizes) <= batch_size
    assert max(sizes) - min(sizes) <= 1


@given(st.integers(4, 200), st.integers(4, 70), st.integers(2, 4), st.booleans(), st.integers(0, 3))
def test_any_number_of_processes_shares_out_the_same_global_batches(
    n: int, batch_size: int, ranks: int, shuffle: bool, epoch: int
) -> None:
    if shuffle and n // -(-n // batch_size) < ranks:
        return  # refused: another test
    alone = epoch_of(EpochBatches(range(n), batch_size, shuffle=shuffle, seed=5), epoch)
    parts = [
        epoch_of(
            EpochBatches(range(n), batch_size, shuffle=shuffle, seed=5, rank=r, world_size=ranks),
            epoch,
        )
        for r in range(ranks)
    ]
    for whole, *shared in zip(alone, *parts, strict=True):
        assert together(tuple(shared)) == sorted(whole.indices.tolist())
        sizes = [len(part.indices) for part in shared]
        assert max(sizes) - min(sizes) <= 1


@given(st.integers(4, 200), st.integers(4, 70), st.integers(1, 4))
def test_shares_weigh_the_processes_means_into_the_mean_over_the_global_batch(
    n: int, batch_size: int, ranks: int
) -> None:
    losses = torch.rand(n, dtype=torch.float64)
    alone = list(EpochBatches(range(n), batch_size, shuffle=False))
    parts = [
        list(EpochBatches(range(n), batch_size, shuffle=False, rank=r, world_size=ranks))
        for r in range(ranks)
    ]
    for whole, *shared in zip(alone, *parts, strict=True):
        assert whole.share == 1
        means = [
            losses[part.indices].mean() * part.share if len(part.indices) else 0.0
            for part in shared
        ]
        assert sum(means) / ranks == pytest.approx(losses[whole.indices].mean().item(), rel=1e-12)


def test_the_draw_says_in_which_epoch_it_is() -> None:
    batches = EpochBatches(range(10), 4, shuffle=True)
    for epoch in (0, 1, 7):
        assert [draw.epoch for draw in epoch_of(batches, epoch)] == [epoch] * 3


def order(seed: int, epoch: int, n: int = 100) -> list[int]:
    return [
        int(i)
        for draw in epoch_of(EpochBatches(range(n), 8, shuffle=True, seed=seed), epoch)
        for i in draw.indices
    ]


def test_epochs_have_different_orders_and_the_same_seed_gives_the_same_ones() -> None:
    orders = [order(3, epoch) for epoch in (0, 1, 2)]
    assert len({tuple(found) for found in orders}) == 3
    assert [order(3, epoch) for epoch in (0, 1, 2)] == orders


def test_seeds_have_different_orders() -> None:
    assert (
        len(
            {
                tuple(order(seed, epoch))
                for seed in (0, 1, 2, 2**31, 2**32 - 1)
                for epoch in (0, 1, 2)
            }
        )
        == 15
    )


def test_no_order_resembles_the_one_of_another_epoch_or_seed_or_the_datas_own() -> None:
    orders = [
        list(range(2000)),
        order(0, 0, 2000),
        order(0, 1, 2000),
        order(1, 0, 2000),
        order(1, 1, 2000),
    ]
    for i, first in enumerate(orders):
        for second in orders[:i]:
            assert abs(stats.spearmanr(first, second).statistic) < 0.08


def test_every_image_is_equally_often_the_first() -> None:
    firsts = torch.tensor([order(seed, 0, 10)[0] for seed in range(1000)])
    assert stats.chisquare(torch.bincount(firsts, minlength=10)).pvalue > 1e-3


def test_the_order_does_not_depend_on_the_global_random_numbers_nor_changes_them() -> None:
    torch.manual_seed(1)
    first, left = order(0, 0), torch.rand(1)
    torch.manual_seed(1)
    assert torch.equal(torch.rand(1), left)
    assert order(0, 0) == first


def test_without_shuffling_the_order_is_the_datas_in_every_epoch() -> None:
    batches = EpochBatches(range(10), 4, shuffle=False, seed=3)
    for epoch in (0, 1):
        assert torch.cat([draw.indices for draw in epoch_of(batches, epoch)]).tolist() == list(
            range(10)
        )


def test_no_images_are_refused() -> None:
    with pytest.raises(ValueError, match="the data hold no images"):
        EpochBatches([], 4, shuffle=False)


def test_training_batches_too_small_for_the_processes_are_refused_and_others_may_be_empty() -> None:
    with pytest.raises(ValueError, match="batches of 2 images for 3 processes; raise batch_size"):
        EpochBatches(range(5), 3, shuffle=True, world_size=3)  # two batches, of 3 and 2
    frozen = [
        list(EpochBatches(range(5), 3, shuffle=False, rank=rank, world_size=4)) for rank in range(4)
    ]
    assert [len(draw.indices) for draw in frozen[3]] == [0, 0]
    assert [draw.share for draw in frozen[3]] == [0, 0]


class Squares(Dataset[Tensor]):
    """A data set that reads whole batches."""

    def __len__(self) -> int:
        return 22

    def __getitem__(self, draw: Draw) -> Tensor:
        return torch.stack(
            [draw.indices, draw.indices**2, torch.full_like(draw.indices, draw.epoch)], dim=1
        )


def loader(workers: int = 0, seed: int = 0) -> ResumableLoader:
    return ResumableLoader(
        Squares(), EpochBatches(Squares(), 4, shuffle=True, seed=seed), num_workers=workers
    )


def epochs(source: ResumableLoader, n: int, first: int = 0) -> list[list[Any]]:
    """As Lightning goes through them."""
    found = []
    for epoch in range(first, first + n):
        source.sampler.set_epoch(epoch)
        found.append([batch.tolist() for batch in source])
    return found


@pytest.fixture(scope="module")
def uninterrupted() -> list[list[Any]]:
    return epochs(loader(), 3)


@workers
def test_a_loader_reads_the_batches_that_are_drawn(
    uninterrupted: list[list[Any]], workers: int
) -> None:
    assert len(loader()) == 6
    assert epochs(loader(workers), 3) == uninterrupted
    for epoch, batches in enumerate(uninterrupted):
        assert sorted(row for batch in batches for row in batch) == [
            [i, i * i, epoch] for i in range(22)
        ]


@workers
@pytest.mark.parametrize("done", range(7))
def test_a_loader_goes_on_at_the_batch_where_its_state_was_saved(
    uninterrupted: list[list[Any]], done: int, workers: int
) -> None:
    first = loader(workers)
    first.sampler.set_epoch(1)
    batches: Iterator[Tensor] = iter(first)
    before = [next(batches).tolist() for _ in range(done)]
    state = first.state_dict()
    assert state == {"epoch": 1, "done": done}
    second = loader(workers)
    started_too_early = iter(second)  # Lightning asks for it before it loads the state
    second.load_state_dict(state)
    if done < 6:
        second.sampler.set_epoch(1)
        assert before + [batch.tolist() for batch in started_too_early] == uninterrupted[1]
    assert epochs(second, 1, first=2) == uninterrupted[2:]


def test_a_state_is_plain_numbers() -> None:
    assert {type(value) for value in loader().state_dict().values()} == {int}


@workers
def test_an_epoch_that_was_left_halfway_without_a_restart_begins_anew(
    uninterrupted: list[list[Any]], workers: int
) -> None:
    source = loader(workers)
    for _ in zip(range(2), source, strict=False):  # Lightning's sanity check
        pass
    assert epochs(source, 3) == uninterrupted


def test_an_epoch_left_halfway_begins_anew_after_a_resumed_one_too(
    uninterrupted: list[list[Any]],
) -> None:
    source = loader()
    source.load_state_dict({"epoch": 1, "done": 4})
    assert epochs(source, 1, first=1) == [uninterrupted[1][4:]]
    source.sampler.set_epoch(2)
    for _ in zip(range(3), source, strict=False):
        pass
    assert epochs(source, 1, first=2) == [uninterrupted[2]]


def test_without_being_told_the_epoch_each_pass_is_the_next_one(
    uninterrupted: list[list[Any]],
) -> None:
    source = loader()
    assert [[batch.tolist() for batch in source] for _ in range(3)] == uninterrupted


def test_a_loader_passes_options_on_to_pytorchs(uninterrupted: list[list[Any]]) -> None:
    source = ResumableLoader(
        Squares(),
        EpochBatches(Squares(), 4, shuffle=True),
        num_workers=2,
        prefetch_factor=1,
        persistent_workers=True,
    )
    assert source.loader.prefetch_factor == 1
    assert epochs(source, 3) == uninterrupted


def test_workers_read_ahead_without_counting_ahead() -> None:
    source = loader(workers=2)
    for done, _ in enumerate(source, start=1):
        assert source.state_dict()["done"] == done


def test_neighbouring_epochs_never_repeat_a_batch(uninterrupted: list[list[Any]]) -> None:
    for first, second in pairwise(uninterrupted):
        assert not {frozenset(row[0] for row in batch) for batch in first} & {
            frozenset(row[0] for row in batch) for batch in second
        }

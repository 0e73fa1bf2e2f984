import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from stn_lightning.distortions import CounterRandom
from stn_lightning.distortions.counter_random import philox

from .samples import randomness

WORD = 0xFFFFFFFF
words = st.integers(0, WORD)
LEAST_PVALUE = 1e-3
"""A correct generator fails a test at this level once in a thousand seeds; the seeds here are
fixed.
"""


def naive_philox(counter: tuple[int, ...], key: tuple[int, ...]) -> tuple[int, ...]:
    """Philox4x32-10 as in the paper of Salmon et al., section 3.3 and table 2, in whole numbers of
    any size.
    """
    (c0, c1, c2, c3), (k0, k1) = counter, key
    for _ in range(10):
        high0, low0 = divmod(0xD2511F53 * c0, 1 << 32)
        high1, low1 = divmod(0xCD9E8D57 * c2, 1 << 32)
        c0, c1, c2, c3 = high1 ^ c1 ^ k0, low1, high0 ^ c3 ^ k1, low0
        k0, k1 = (k0 + 0x9E3779B9) % (1 << 32), (k1 + 0xBB67AE85) % (1 << 32)
    return c0, c1, c2, c3


def our_philox(counter: tuple[int, ...], key: tuple[int, ...]) -> tuple[int, ...]:
    c0, c1, c2, c3 = (torch.tensor([word]) for word in counter)
    return tuple(int(word) for word in philox((c0, c1, c2, c3), (key[0], key[1])))


@pytest.mark.parametrize(
    ("counter", "key", "expected"),
    [
        ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        ((WORD, WORD, WORD, WORD), (WORD, WORD), (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
        (  # the digits of pi
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            (0xA4093822, 0x299F31D0),
            (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
        ),
    ],
)
def test_philox_gives_the_known_answers_of_its_authors(
    counter: tuple[int, ...], key: tuple[int, ...], expected: tuple[int, ...]
) -> None:  # kat_vectors of Random123
    assert our_philox(counter, key) == expected


@given(st.tuples(words, words, words, words), st.tuples(words, words))
def test_philox_agrees_with_whole_numbers_that_cannot_overflow(
    counter: tuple[int, ...], key: tuple[int, ...]
) -> None:
    assert our_philox(counter, key) == naive_philox(counter, key)


@given(
    words,
    words,
    words,
    st.integers(0, 2**63 - 1),
    st.lists(st.integers(1, 9), min_size=1, max_size=3),
)
def test_each_number_is_philox_of_block_epoch_and_index_under_the_key_of_seed_and_stream(
    seed: int, stream: int, epoch: int, index: int, calls: list[int]
) -> None:
    numbers = CounterRandom(seed, stream, epoch, torch.tensor([index]))
    block = 0
    for n in calls:
        expected: list[float] = []
        while len(expected) < n:  # each call begins a new block of four
            expected += [
                (word + 0.5) / 2**32
                for word in naive_philox((block, epoch, index & WORD, index >> 32), (seed, stream))
            ]
            block += 1
        assert numbers.uniform(n, 0.0, 1.0)[0].tolist() == expected[:n]


def test_seeds_streams_epochs_and_indices_give_different_numbers() -> None:
    seeds, streams, epochs, index = (
        (0, 1, 2**32 - 1),
        (0, 1, 2),
        (0, 1, 7),
        torch.tensor([0, 1, 2**32, 2**32 + 1]),
    )
    drawn = torch.cat(
        [
            CounterRandom(s, t, e, index).uniform(1, 0.0, 1.0)
            for s in seeds
            for t in streams
            for e in epochs
        ]
    )
    assert len(drawn.unique()) == len(drawn) == 3 * 3 * 3 * 4


def test_neighbouring_seeds_streams_epochs_and_indices_are_not_correlated() -> None:
    n = 4000
    base = randomness(n + 1).uniform(2, 0.0, 1.0)
    others = {
        "seed": CounterRandom(1, 0, 0, torch.arange(n)),
        "stream": CounterRandom(0, 1, 0, torch.arange(n)),
        "epoch": CounterRandom(0, 0, 1, torch.arange(n)),
        "swapped seed and stream": CounterRandom(0, 1, 0, torch.arange(n)),
    }
    for name, other in others.items():
        assert (
            abs(stats.spearmanr(base[:n, 0], other.uniform(1, 0.0, 1.0)[:, 0]).statistic) < 0.05
        ), name
    assert abs(stats.spearmanr(base[:-1, 0], base[1:, 0]).statistic) < 0.05
    assert abs(stats.spearmanr(base[:, 0], base[:, 1]).statistic) < 0.05


def test_no_call_draws_a_number_that_a_call_before_it_has_drawn() -> None:
    numbers = randomness(50)
    calls = [numbers.uniform(n, 0.0, 1.0) for n in (1, 4, 5, 2)]
    drawn = torch.cat(calls, dim=1).flatten()
    assert len(drawn.unique()) == len(drawn) == 50 * 12


@pytest.mark.parametrize("size", [1, 7, 256])
def test_numbers_do_not_depend_on_the_batch_or_its_order(size: int) -> None:
    index = torch.randperm(1000)
    whole = randomness(1000).normal(3, 1.0)
    parts = torch.cat([CounterRandom(0, 0, 0, part).normal(3, 1.0) for part in index.split(size)])
    assert torch.equal(parts, whole[index])


def test_uniform_numbers_are_evenly_spread_inside_their_range() -> None:
    drawn = randomness(5000).uniform(2, -3.0, 5.0)
    assert drawn.dtype == torch.float64
    assert -3 < drawn.min() < -2.99
    assert 4.99 < drawn.max() < 5
    assert stats.kstest(drawn.flatten(), stats.uniform(-3, 8).cdf).pvalue > LEAST_PVALUE


@pytest.mark.parametrize("n", [1, 2, 5])
def test_normal_numbers_are_normal_and_independent(n: int) -> None:
    drawn = randomness(6000).normal(n, 2.5)
    assert drawn.shape == (6000, n)
    assert stats.kstest(drawn.flatten(), stats.norm(0, 2.5).cdf).pvalue > LEAST_PVALUE
    correlation = np.corrcoef(drawn.T).reshape(n, n)
    assert np.abs(correlation - np.eye(n)).max() < 0.05
    assert (
        np.abs(np.corrcoef(drawn.square().T).reshape(n, n) - np.eye(n)).max() < 0.05
    )  # the two of a pair share a radius


@pytest.mark.parametrize("spread", [0.0, 0.25, 1.0])
def test_a_spread_below_one_draws_amounts_towards_the_middle_of_their_range_and_leaves_choices(
    spread: float,
) -> None:
    whole, near = (CounterRandom(3, 0, 0, torch.arange(500), part) for part in (1.0, spread))
    torch.testing.assert_close(
        near.uniform(2, -3.0, 5.0) - 1, spread * (whole.uniform(2, -3.0, 5.0) - 1)
    )
    torch.testing.assert_close(near.normal(3, 2.5), spread * whole.normal(3, 2.5))
    assert torch.equal(near.integer(2, 33), whole.integer(2, 33))


@pytest.mark.parametrize("high", [1, 2, 10, 33])
def test_whole_numbers_are_all_alike_and_below_their_bound(high: int) -> None:
    drawn = randomness(6000).integer(2, high)
    counts = np.bincount(drawn.flatten(), minlength=high)
    assert len(counts) == high
    assert stats.chisquare(counts).pvalue > LEAST_PVALUE or high == 1


def test_whole_numbers_can_have_a_bound_of_their_own() -> None:
    high = torch.tensor([[1, 5], [3, 100]]).repeat(2000, 1)
    drawn = randomness(4000).integer(2, high)
    assert (drawn < high).all()
    assert (drawn >= 0).all()
    assert drawn[1::2].amax(0).tolist() == [2, 99]
    assert drawn[::2].amax(0).tolist() == [0, 4]

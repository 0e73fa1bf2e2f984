"""Random numbers from (seed, stream, epoch, image index) alone.

A counter-based generator computes the n-th random number directly, without a state. So an image
gets the same numbers in any batch, in any order, on any device, on any number of processes, and
after a resume.

Reference:
    Salmon et al. 2011, "Parallel Random Numbers: As Easy as 1, 2, 3" (Philox4x32-10); Box and
    Muller 1958.
"""

import math

import torch
from jaxtyping import Float64, Int64
from torch import Tensor

_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_WEYL = (0x9E3779B9, 0xBB67AE85)
_WORD = 0xFFFFFFFF

_AHEAD = 2048
"""Smallest number of counters to evaluate Philox for. So few take no longer than one, because the
120 operations cost more to start than to compute.
"""


def philox(
    counter: tuple[Tensor, Tensor, Tensor, Tensor], key: tuple[int, int]
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return four random 32-bit words for each counter (Philox4x32-10).

    A counter has four words, a key two. All tensors are int64 and have the same shape.
    """
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(10):
        # int64 products overflow, but have the same 64 bits as the unsigned product
        left, right = c0 * _MULTIPLIERS[0], c2 * _MULTIPLIERS[1]
        c0, c1, c2, c3 = (
            (right >> 32 & _WORD) ^ c1 ^ k0,
            right & _WORD,
            (left >> 32 & _WORD) ^ c3 ^ k1,
            left & _WORD,
        )
        k0, k1 = (k0 + _WEYL[0]) & _WORD, (k1 + _WEYL[1]) & _WORD
    return c0, c1, c2, c3


class CounterRandom:
    """Random numbers for a batch of images.

    Each call draws new numbers.

    Args:
        seed: seed of the run, 0 to 2^32 - 1.
        stream: one of the seed's independent sequences (training, validation, test), 0 to 2^32 - 1.
        epoch: epoch of the training; validation and test always give the same one.
        index: index of each image in its data set, (batch,).
        spread: factor of the numbers' distance from the middle of their range: with 0 each
            `uniform` is the middle of its range and each `normal` is 0, with 1 both are unchanged.
            Integers do not depend on it.

    >>> one = CounterRandom(seed=0, stream=0, epoch=3, index=torch.tensor([7]))
    >>> two = CounterRandom(seed=0, stream=0, epoch=3, index=torch.tensor([5, 7]))
    >>> torch.equal(one.uniform(4, -1.0, 1.0)[0], two.uniform(4, -1.0, 1.0)[1])
    True
    """

    def __init__(
        self,
        seed: int,
        stream: int,
        epoch: int,
        index: Int64[Tensor, " batch"],
        spread: float = 1.0,
    ) -> None:
        self.key = (seed & _WORD, stream & _WORD)
        self.epoch = epoch
        self.index = index
        self.spread = spread
        self.drawn = 0
        self._ready = index.new_empty(len(index), 0)

    def _words(self, n: int) -> Int64[Tensor, "batch n"]:
        wanted = math.ceil(n / 4) * 4  # each call begins with a new counter, which has four words
        ready = self._ready.shape[1]
        if wanted > ready:
            blocks = max((wanted - ready) // 4, _AHEAD // max(len(self.index), 1))
            more = self._blocks(self.drawn + ready // 4, blocks)
            self._ready = torch.cat([self._ready, more], dim=1)
        words, self._ready = self._ready[:, :n], self._ready[:, wanted:]
        self.drawn += wanted // 4
        return words

    def _blocks(self, first: int, n: int) -> Int64[Tensor, "batch words"]:
        """Return the words of `n` counters from `first` on."""
        numbers = torch.arange(first, first + n, device=self.index.device)
        index, block = torch.broadcast_tensors(self.index[:, None], numbers)
        counter = (block, torch.full_like(block, self.epoch), index & _WORD, index >> 32 & _WORD)
        return torch.stack(philox(counter, self.key), dim=-1).flatten(1)

    def uniform(self, n: int, low: float, high: float) -> Float64[Tensor, "batch n"]:
        """Draw `n` uniform numbers for each image.

        They have 2^32 different values.
        """
        # unchanged to the last bit if the spread is 1
        return low + (high - low) * (0.5 + self.spread * (self._unit(n) - 0.5))

    def normal(self, n: int, std: float) -> Float64[Tensor, "batch n"]:
        """Draw `n` normal numbers of mean 0 for each image.

        Devices differ in the last bit of a logarithm. Here it is a bit of float64, which rounding
        to float32 removes.
        """
        pairs = self._unit(2 * math.ceil(n / 2)).unflatten(1, (-1, 2))
        radius, angle = (-2 * pairs[..., 0].log()).sqrt(), 2 * math.pi * pairs[..., 1]
        numbers = torch.stack([radius * angle.cos(), radius * angle.sin()], dim=-1)
        return std * self.spread * numbers.flatten(1)[:, :n]

    def integer(self, n: int, high: Int64[Tensor, "#batch #n"] | int) -> Int64[Tensor, "batch n"]:
        """Draw `n` integers below `high` for each image.

        0 to high - 1 are equally likely, to 1 part in 2^32 / high.
        """
        return self._words(n) * high >> 32

    def _unit(self, n: int) -> Float64[Tensor, "batch n"]:
        return (self._words(n).double() + 0.5) * 2.0**-32

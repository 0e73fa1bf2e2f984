"""Where transformers look before they have learnt anything.

Reference:
    Jaderberg et al. 2015, section 3.1 (identity) and 4.3 (tiling); Shi et al. 2016 (RARE) report that for text an exact
    identity did not train and a disturbed one did.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from stn_lightning.transformers.bounded import Bounded
from stn_lightning.transformers.families import Attention, Family, Translation


class Start(ABC):
    """Chooses the first theta of each of `n` transformers."""

    @abstractmethod
    def theta(self, family: Family, n: int) -> Float[Tensor, "n numbers"]: ...


class Identity(Start):
    """Each looks at the whole image (with `Translation`: at its middle)."""

    def theta(self, family: Family, n: int) -> Float[Tensor, "n numbers"]:
        return torch.tensor(family.identity).repeat(n, 1)


class Stated(Start):
    """Each at a theta that is given.

    Args:
        numbers: theta.

    Raises:
        ValueError: where the family's theta has more or fewer numbers.
    """

    def __init__(self, numbers: Sequence[float]) -> None:
        self.numbers = tuple(numbers)

    def theta(self, family: Family, n: int) -> Float[Tensor, "n numbers"]:
        if isinstance(family, Bounded):
            return family.free(self.theta(family.family, n))
        if len(self.numbers) != len(family.identity):
            raise ValueError(f"a start of {len(self.numbers)} numbers for {type(family).__name__}, whose theta has {len(family.identity)}")
        return torch.tensor(self.numbers).repeat(n, 1)


class Disturbed(Start):
    """The identity plus noise, the same for the same seed; parallel transformers start apart.

    Args:
        std: standard deviation of the noise, in units of theta.
    """

    def __init__(self, std: float, seed: int = 0) -> None:
        self.std, self.seed = std, seed

    def theta(self, family: Family, n: int) -> Float[Tensor, "n numbers"]:
        start = Identity().theta(family, n)
        return start + self.std * torch.randn(start.shape, generator=torch.Generator().manual_seed(self.seed))


class Tiling(Start):
    """Side by side: together the `n` crops cover the image, as far as their size allows (the paper's birds).

    For families with a crop that moves, `Translation` and `Attention`. Crops stand in rows and columns as near to a square as `n` divides,
    with more columns than rows: 2 are left and right, 4 the quarters.
    """

    def theta(self, family: Family, n: int) -> Float[Tensor, "n numbers"]:
        if isinstance(family, Bounded):
            return family.free(self.theta(family.family, n))
        rows = max(r for r in range(1, math.isqrt(n) + 1) if n % r == 0)
        ys, xs = _centres(rows), _centres(n // rows)
        at = torch.tensor([(x, y) for y in ys for x in xs])  # (n, 2)
        if isinstance(family, Translation):
            return at
        if isinstance(family, Attention):
            return torch.cat([torch.full((n, 1), 1 / rows), at], dim=1)
        raise ValueError(f"Tiling places Translation and Attention, not {type(family).__name__}; take one of these or Disturbed")


def _centres(n: int) -> list[float]:
    """Centres of `n` equal parts of [-1, 1]."""
    return [(2 * i + 1 - n) / n for i in range(n)]

"""Where transformers look before they have learnt anything.

Reference:
    Jaderberg et al. 2015, section 3.1 (identity) and 4.3 (tiling); Shi et al. 2016 (RARE) report
    that for text an exact identity did not train and a disturbed one did. `HeatmapCentres` is ours.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.functional import jacobian

from stn_lightning.transformers.bounded import BoundedFamily
from stn_lightning.transformers.families import Affine3D, Attention, Family, Translation


class Start(ABC):
    """Chooses the first theta of each of `n` transformers."""

    learnt = True
    """Whether the regression that `weight` starts goes on to learn."""

    @abstractmethod
    def theta(self, family: Family, n: int) -> Float[Tensor, "n numbers"]: ...

    def weight(self, family: Family, n: int, features: int) -> Float[Tensor, "n numbers features"]:
        """The first weights from a localisation's features to what is added to theta: zero, so that
        nothing is added at first.
        """
        return torch.zeros(n, len(family.identity), features)


class Identity(Start):
    """Each looks at the whole image (with `Translation`: at its middle)."""

    def theta(self, family: Family, n: int) -> Float[Tensor, "n numbers"]:
        return torch.tensor(family.identity).repeat(n, 1)


class InitialTheta(Start):
    """Each at a theta that is given.

    Args:
        theta: theta.

    Raises:
        ValueError: where the family's theta has more or fewer numbers.
    """

    def __init__(self, theta: Sequence[float]) -> None:
        self.numbers = tuple(theta)

    def theta(self, family: Family, n: int) -> Float[Tensor, "n numbers"]:
        if isinstance(family, BoundedFamily):
            return family.free(self.theta(family.family, n))
        if len(self.numbers) != len(family.identity):
            raise ValueError(
                f"a start of {len(self.numbers)} numbers for {type(family).__name__}, whose theta has {len(family.identity)}"
            )
        return torch.tensor(self.numbers).repeat(n, 1)


class NoisyIdentity(Start):
    """The identity plus noise, the same for the same seed; parallel transformers start apart.

    Args:
        std: standard deviation of the noise, in units of theta.
    """

    def __init__(self, std: float, seed: int = 0) -> None:
        self.std, self.seed = std, seed

    def theta(self, family: Family, n: int) -> Float[Tensor, "n numbers"]:
        start = Identity().theta(family, n)
        return start + self.std * torch.randn(
            start.shape, generator=torch.Generator().manual_seed(self.seed)
        )


class Tiling(Start):
    """Side by side: together the `n` crops cover the image, as far as their size allows (the
    paper's birds).

    For families with a crop that moves, `Translation` and `Attention`. Crops stand in rows and
    columns as near to a square as `n` divides, with more columns than rows: 2 are left and right, 4
    the quarters.
    """

    def theta(self, family: Family, n: int) -> Float[Tensor, "n numbers"]:
        if isinstance(family, BoundedFamily):
            return family.free(self.theta(family.family, n))
        rows = max(r for r in range(1, math.isqrt(n) + 1) if n % r == 0)
        ys, xs = _centres(rows), _centres(n // rows)
        at = torch.tensor([(x, y) for y in ys for x in xs])  # (n, 2)
        if isinstance(family, Translation):
            return at
        if isinstance(family, Attention):
            return torch.cat([torch.full((n, 1), 1 / rows), at], dim=1)
        raise ValueError(
            f"Tiling places Translation and Attention, not {type(family).__name__}; take one of these or Disturbed"
        )


class HeatmapCentres(Start):
    """Each crop's middle IS a place that the localisation finds: the i-th transformer follows the
    i-th place, now and for ever.

    For `HeatmapLocalisation`, whose features are places, with as many maps as there are
    transformers. Nothing is regressed: what a map finds is looked at from the first step on, so a
    map grows warmer wherever looking pays, and no transformer can turn to another's place. Theta
    changes by what moves the crop as a whole; shape and size stay as they start.

    Args:
        start: shape and size, and what is added to the places; the identity when left out.

    Raises:
        ValueError: for `Affine3D`, and where the localisation's features are not one place for each
            transformer that it serves.
    """

    learnt = False

    def __init__(self, start: Start | None = None) -> None:
        self.start = start or Identity()

    def theta(self, family: Family, n: int) -> Float[Tensor, "n numbers"]:
        if isinstance(family, Affine3D):
            raise ValueError(
                "Following moves crops in a plane, where heat maps are, not Affine3D; take another start"
            )
        return self.start.theta(family, n)

    def weight(self, family: Family, n: int, features: int) -> Float[Tensor, "n numbers features"]:
        if features != 2 * n:
            raise ValueError(
                f"Following needs x and y of {n} places, {2 * n} features, not {features}; take HeatmapLocalisation with maps: {n}"
            )
        weight = super().weight(family, n, features)
        alike = torch.eye(2).repeat(64, 1)  # what moves all of 8 x 8 points by (1, 0) and by (0, 1)
        for i, theta in enumerate(self.theta(family, n)):
            moved = jacobian(
                lambda theta: family(theta[None], (8, 8)).flatten(), theta
            )  # (128, numbers)
            weight[i, :, 2 * i : 2 * i + 2] = torch.linalg.pinv(moved) @ alike
        return weight


def _centres(n: int) -> list[float]:
    """Centres of `n` equal parts of [-1, 1]."""
    return [(2 * i + 1 - n) / n for i in range(n)]

"""Where transformers look before they have learnt anything.

Reference:
    Jaderberg et al. 2015, section 3.1 (identity) and 4.3 (tiling); Shi et al. 2016 (RARE) report
    that for text an exact identity did not train and a disturbed one did. `HeatmapCentres` is ours.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from stn_lightning.transformers.families import Family


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
        if len(self.numbers) != len(family.identity):
            raise ValueError(
                f"a start of {len(self.numbers)} numbers for {type(family).__name__}, whose theta has {len(family.identity)}"
            )
        return family.unbound(torch.tensor(self.numbers).repeat(n, 1))


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
        return family.unbound(family.tile(n))


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
        if family.dimensions != 2:
            raise ValueError(
                f"HeatmapCentres moves crops in a plane, not in {family.dimensions} dimensions; "
                "take another start"
            )
        return self.start.theta(family, n)

    def weight(self, family: Family, n: int, features: int) -> Float[Tensor, "n numbers features"]:
        if features != 2 * n:
            raise ValueError(
                f"HeatmapCentres needs x and y of {n} places, {2 * n} features, not {features}; take HeatmapLocalisation with num_maps: {n}"
            )
        weight = super().weight(family, n, features)
        for i, theta in enumerate(self.theta(family, n)):
            weight[i, :, 2 * i : 2 * i + 2] = family.translation(theta)
        return weight

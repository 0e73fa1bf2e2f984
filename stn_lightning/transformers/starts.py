"""Starts: the first theta of each transformer.

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
    """Base class of starts."""

    learnt = True
    """Whether training goes on to change the regression's weights."""

    @abstractmethod
    def theta(self, family: Family, n: int) -> Float[Tensor, "n numbers"]:
        """Return the first theta of `n` transformers, as regressed."""

    def weight(self, family: Family, n: int, features: int) -> Float[Tensor, "n numbers features"]:
        """Return the regression's first weights: zeros by default.

        Args:
            family: family of the transformers.
            n: number of transformers.
            features: number of the localisation's features.
        """
        return torch.zeros(n, len(family.identity), features)


class Identity(Start):
    """Starts with the whole image; with `Translation`, with its centre.

    >>> Identity().theta(Attention(), 2)
    tensor([[1., 0., 0.],
            [1., 0., 0.]])
    """

    def theta(self, family: Family, n: int) -> Float[Tensor, "n numbers"]:
        return torch.tensor(family.identity).repeat(n, 1)


class InitialTheta(Start):
    """Starts with a given theta.

    Args:
        theta: theta of all of them, or a list with one for each.

    Raises:
        ValueError: the family's theta has another length, or the list has another length than
            there are transformers.

    >>> InitialTheta([0.5, 0.0, 0.25]).theta(Attention(), 1)
    tensor([[0.5000, 0.0000, 0.2500]])
    """

    def __init__(self, theta: Sequence[float] | Sequence[Sequence[float]]) -> None:
        self.numbers = torch.tensor(theta, dtype=torch.float32)

    def theta(self, family: Family, n: int) -> Float[Tensor, "n numbers"]:
        each = self.numbers if self.numbers.dim() == 2 else self.numbers.repeat(n, 1)
        if each.shape[1] != len(family.identity):
            raise ValueError(
                f"a start of {each.shape[1]} numbers for {type(family).__name__}, "
                f"whose theta has {len(family.identity)}"
            )
        if len(each) != n:
            raise ValueError(f"{len(each)} starts for {n} transformers; give one for each")
        return family.unbound(each)


class NoisyIdentity(Start):
    """Starts with the identity plus noise.

    So parallel transformers differ.

    Args:
        std: standard deviation of the noise, in units of theta.
        seed: seed of the noise.

    >>> NoisyIdentity(0.1).theta(Attention(), 2)
    tensor([[ 1.1541, -0.0293, -0.2179],
            [ 1.0568, -0.1085, -0.1399]])
    """

    def __init__(self, std: float, seed: int = 0) -> None:
        self.std, self.seed = std, seed

    def theta(self, family: Family, n: int) -> Float[Tensor, "n numbers"]:
        start, generator = Identity().theta(family, n), torch.Generator().manual_seed(self.seed)
        return start + self.std * torch.randn(start.shape, generator=generator)


class Tiling(Start):
    """Starts with crops side by side.

    They cover the image as far as their size allows. As for the paper's birds, for families with a
    crop that moves: `Translation` and `Attention`. Crops stand in rows and columns as near to a
    square as `n` divides, with more columns than rows: 2 are left and right, 4 the quarters.

    >>> Tiling().theta(Attention(), 2)
    tensor([[ 1.0000, -0.5000,  0.0000],
            [ 1.0000,  0.5000,  0.0000]])
    """

    def theta(self, family: Family, n: int) -> Float[Tensor, "n numbers"]:
        return family.unbound(family.tile(n))


class HeatmapCentres(Start):
    """Keeps each crop at the centre of its heat map.

    For `HeatmapLocalisation` with as many maps as there are transformers: the i-th transformer's
    crop is centred at the i-th map's mean. Nothing is regressed, so a map grows warmer where its
    crop helps from the first step on, and no transformer can turn to another's map. theta changes
    by what moves the crop as a whole; shape and size stay as they start.

    Args:
        start: shape and size, and an offset from the centres; the identity by default.

    Raises:
        ValueError: the family is 3D, or the localisation's features are not x and y for each of its
            transformers.

    >>> HeatmapCentres().weight(Translation(0.5), 1, 2).round(decimals=3).abs()
    tensor([[[1., 0.],
             [0., 1.]]])
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
                f"HeatmapCentres needs x and y of {n} centres, {2 * n} features, not {features}; "
                f"take HeatmapLocalisation with num_maps: {n}"
            )
        weight = super().weight(family, n, features)
        for i, theta in enumerate(self.theta(family, n)):
            weight[i, :, 2 * i : 2 * i + 2] = family.translation(theta)
        return weight

"""Starts: the first theta of each transformer.

Reference:
    Jaderberg et al. 2015, section 3.1 (identity) and 4.3 (tiling); Shi et al. 2016 (RARE) report
    that for text the exact identity did not train and one with noise did. `HeatmapCentres` is ours.
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
    """Whether the weights of the regression are trained."""

    @abstractmethod
    def theta(self, family: Family, n: int) -> Float[Tensor, "n numbers"]:
        """Return the first theta of `n` transformers, before bounding."""

    def weight(
        self, family: Family, thetas: Float[Tensor, "n numbers"], features: int
    ) -> Float[Tensor, "n numbers features"]:
        """Return the first weights of the regression, by default zeros.

        Args:
            family: family of the transformers.
            thetas: first theta of each transformer that is regressed from these features.
            features: number of the localisation's features.
        """
        return torch.zeros(*thetas.shape, features)


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
        theta: theta of all transformers, or a list with one for each.

    Raises:
        ValueError: theta has another length than the family's, or the list has not one for each
            transformer.

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

    With it parallel transformers start differently.

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
    """Starts with crops side by side (the paper's birds).

    It is for the families `Translation` and `Attention`. Crops are in rows and columns, with at
    least as many columns as rows: 2 crops are left and right, 4 are the quarters of the image. The
    side of a crop of `Attention` is that of the image divided by the number of rows, so that crops
    overlap if there are more columns.

    >>> Tiling().theta(Attention(), 2)
    tensor([[ 1.0000, -0.5000,  0.0000],
            [ 1.0000,  0.5000,  0.0000]])
    """

    def theta(self, family: Family, n: int) -> Float[Tensor, "n numbers"]:
        return family.unbound(family.tile(n))


class HeatmapCentres(Start):
    """Keeps each crop at the centre of its heat map.

    It is for `HeatmapLocalisation` with one heat map for each transformer: the crop of transformer
    i is centred at the mean point of map i. The regression is not trained. So from the first step
    on the gradient raises a map where its crop helps, and no transformer can follow another's map.
    Only the crop's position changes, not its shape and size.

    Args:
        start: shape and size of the crop, and its offset from the centre of the heat map; the
            identity by default.

    Raises:
        ValueError: the family is of volumes, or the localisation has not two features, x and y, for
            each transformer.

    >>> HeatmapCentres().weight(Translation(0.5), torch.zeros(1, 2), 2).round(decimals=3).abs()
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

    def weight(
        self, family: Family, thetas: Float[Tensor, "n numbers"], features: int
    ) -> Float[Tensor, "n numbers features"]:
        n = len(thetas)
        if features != 2 * n:
            raise ValueError(
                f"HeatmapCentres needs {2 * n} features, x and y of {n} centres, and got "
                f"{features}; take HeatmapLocalisation with num_maps: {n}"
            )
        weight = super().weight(family, thetas, features)
        for i, theta in enumerate(thetas):
            weight[i, :, 2 * i : 2 * i + 2] = family.translation(theta)
        return weight

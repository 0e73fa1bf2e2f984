"""A family whose parameters stay within ranges."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from stn_lightning.geometry.lattice import upcast
from stn_lightning.shapes import GridsND, Theta
from stn_lightning.transformers.families import Family, Size

_FAR = 1e6
"""Largest |x / h| that is computed with: its square does not overflow, and the bounded number is
already at the end of its range.
"""


class BoundedFamily(Family):
    """A family with a range for each number of theta.

    Let x be the regressed number minus the identity's, and h the distance from the identity to the
    end of the range. The number that is applied is x / sqrt(1 + (x / h)^2) away from the identity.
    For small x this is x itself, so grid and gradient are the family's own, bit for bit. For large
    x the gradient falls with the third power of x; that of tanh would be exactly zero beyond ten
    ranges.

    A bounded family is not closed under composition.

    Args:
        family: family to bound.
        low: smallest value of each number of theta, or one for all.
        high: largest value of each number of theta, or one for all.

    Raises:
        ValueError: `low` or `high` has another length than theta, or the identity is not between
            them.

    >>> family = BoundedFamily(Attention(), low=[0.2, -0.9, -0.9], high=[1.2, 0.9, 0.9])
    >>> family.bound(torch.tensor([[-50.0, 0.0, 50.0]]))
    tensor([[0.2001, 0.0000, 0.8999]])
    """

    def __init__(
        self, family: Family, low: float | Sequence[float], high: float | Sequence[float]
    ) -> None:
        super().__init__()
        self.family = family
        self.identity = family.identity
        self.dimensions = family.dimensions
        self.low, self.high = (
            (end,) * len(self.identity) if isinstance(end, int | float) else tuple(end)
            for end in (low, high)
        )
        for name, end in (("low", self.low), ("high", self.high)):
            if len(end) != len(self.identity):
                raise ValueError(
                    f"{name} has {len(end)} numbers, theta has {len(self.identity)}; "
                    "give one for each, or one for all"
                )
        for lowest, identity, highest in zip(self.low, self.identity, self.high, strict=True):
            if not lowest < identity < highest:
                raise ValueError(
                    f"the range from {lowest:g} to {highest:g} does not contain the identity, "
                    f"{identity:g}; widen it"
                )

    def grid(self, theta: Theta, size: Size) -> GridsND:
        return self.family.grid(theta, size)

    def bound(self, theta: Theta) -> Theta:
        identity, half = self._half_range(theta)
        x = ((upcast(theta) - identity) / half).clamp(-_FAR, _FAR)
        return self.family.bound(identity + x * half / (1 + x * x).sqrt())

    def unbound(self, theta: Theta) -> Theta:
        """Invert `bound`.

        Raises:
            ValueError: a number is not within its range.
        """
        theta = self.family.unbound(theta)
        identity, half = self._half_range(theta)
        x = (theta - identity) / half
        if (x.abs() >= 1).any():
            raise ValueError(
                f"theta {theta.tolist()} is not within its bounds, {self.low} to {self.high}; "
                "widen them"
            )
        return identity + x * half / (1 - x * x).sqrt()

    def tile(self, n: int) -> Float[Tensor, "n numbers"]:
        return self.family.tile(n)

    def _half_range(self, theta: Theta) -> tuple[Float[Tensor, " numbers"], Theta]:
        """Return the identity, and its distance to the nearer bound."""
        identity, low, high = (
            upcast(theta).new_tensor(numbers) for numbers in (self.identity, self.low, self.high)
        )
        return identity, torch.where(theta < identity, identity - low, high - identity)

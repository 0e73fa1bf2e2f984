"""A family whose numbers cannot leave a range: no crop smaller, larger or farther out than one
allows.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from stn_lightning.geometry.lattice import exact
from stn_lightning.transformers.families import Family, Size

_FAR = 1e6
"""Ranges from the identity, at which a number is held: its square is finite, and it is at the end
of its range to the last bit.
"""


class BoundedFamily(Family):
    """Another family, with each number of theta in a range of its own.

    Between the identity and the end of its range, h away, a number that has been moved by x is
    taken to have been moved by x / sqrt(1 + (x / h)^2): as far, close to the identity, and never
    quite h. Where theta is the identity the grid is the identity's, bit for bit, and the gradient
    is the family's own; at the end of the range it fades with the third power of x, where tanh's is
    gone after ten ranges. theta itself, as a transformer regresses and returns it, has no bounds;
    `inside` gives what the family gets.

    Not closed under composition, as a range is not.

    Args:
        family: what is bounded.
        low: the least value of each number of theta, or one for all.
        high: the greatest, likewise.

    Raises:
        ValueError: where there are not as many as theta has numbers, or the identity does not lie
            between them.
    """

    def __init__(
        self, family: Family, low: float | Sequence[float], high: float | Sequence[float]
    ) -> None:
        super().__init__()
        self.family = family
        self.identity = family.identity
        self.low, self.high = (
            (end,) * len(self.identity) if isinstance(end, int | float) else tuple(end)
            for end in (low, high)
        )
        for name, end in (("low", self.low), ("high", self.high)):
            if len(end) != len(self.identity):
                raise ValueError(
                    f"{name} has {len(end)} numbers, theta has {len(self.identity)}; give one for each, or one for all"
                )
        for lowest, own, highest in zip(self.low, self.identity, self.high, strict=True):
            if not lowest < own < highest:
                raise ValueError(
                    f"the range from {lowest:g} to {highest:g} does not hold the identity, {own:g}, inside; widen it"
                )

    def grid(
        self, theta: Float[Tensor, "batch numbers"], size: Size
    ) -> Float[Tensor, "batch *size dimensions"]:
        return self.family(self.inside(theta), size)

    def inside(self, theta: Float[Tensor, "batch numbers"]) -> Float[Tensor, "batch numbers"]:
        """theta, brought into the range: what the family makes a grid of."""
        identity, room = self._room(theta)
        ranges = ((exact(theta) - identity) / room).clamp(-_FAR, _FAR)
        return identity + ranges * room / (1 + ranges * ranges).sqrt()

    def free(self, inside: Float[Tensor, "batch numbers"]) -> Float[Tensor, "batch numbers"]:
        """The inverse of `inside`: the theta by which a bounded transformer has the family's
        `inside`.

        Raises:
            ValueError: where a number lies outside of its range.
        """
        identity, room = self._room(inside)
        ranges = (inside - identity) / room
        if (ranges.abs() >= 1).any():
            raise ValueError(
                f"theta {inside.tolist()} is not within its bounds, {self.low} to {self.high}; widen them"
            )
        return identity + ranges * room / (1 - ranges * ranges).sqrt()

    def _room(
        self, theta: Float[Tensor, "batch numbers"]
    ) -> tuple[Float[Tensor, " numbers"], Float[Tensor, "batch numbers"]]:
        """The identity, and how far it is from there to the end of the range on theta's side."""
        identity, low, high = (
            exact(theta).new_tensor(numbers) for numbers in (self.identity, self.low, self.high)
        )
        return identity, torch.where(theta < identity, identity - low, high - identity)

"""Families of transformations: theta -> sampling grid.

A transformer regresses the theta of a family. A new family is a subclass of `Family` with
`identity` and `grid`.

Reference:
    Jaderberg et al. 2015, section 3.2.
"""

import itertools
import math
from abc import ABC, abstractmethod

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.functional import jacobian

from stn_lightning.geometry import affine, lattice, projective, volume
from stn_lightning.shapes import Grids, GridsND, Theta

Size = tuple[int, ...]
"""(height, width), or (depth, height, width)."""


class Family(nn.Module, ABC):
    """Base class of families of transformations.

    `family(theta, size)` returns the sampling grid for a regressed theta, `grid(bound(theta),
    size)`. A subclass defines `identity` and `grid`.

    >>> class Zoom(Family):
    ...     identity = (1.0,)
    ...
    ...     def grid(self, theta, size):
    ...         return theta[:, :, None, None] * lattice.points(size, theta)
    >>> Zoom()(torch.tensor([[0.5]]), (1, 2)).tolist()
    [[[[-0.25, 0.0], [0.25, 0.0]]]]
    """

    identity: tuple[float, ...]
    """theta of the identity; its length is the number of parameters."""

    dimensions = 2
    """Number of coordinates of a point: 2 in images, 3 in volumes."""

    def __init__(self) -> None:  # for help(), which would show the *args of nn.Module
        super().__init__()

    @abstractmethod
    def grid(self, theta: Theta, size: Size) -> GridsND:
        """Return the sampling grid for an output size.

        It is float32 or float64, whatever the precision of `theta`.
        """

    def bound(self, theta: Theta) -> Theta:
        """Map a regressed theta into the family's range."""
        return theta

    def unbound(self, theta: Theta) -> Theta:
        """Invert `bound`: return the theta to regress."""
        return theta

    def tile(self, n: int) -> Float[Tensor, "n numbers"]:
        """Return `n` thetas whose crops are side by side.

        Their centres are; with more columns than rows, large crops overlap.

        Raises:
            ValueError: the family cannot be tiled.
        """
        raise ValueError(
            f"{type(self).__name__} cannot be tiled; take Translation or Attention, or another "
            "start, for example NoisyIdentity"
        )

    def translation(self, theta: Float[Tensor, " numbers"]) -> Float[Tensor, "numbers dimensions"]:
        """Return theta's change for a crop shifted by 1.

        There is a column for each of x, y (and z). The shift is fitted by least squares at 8 points
        along each axis; it is exact if the grid is linear in theta.
        """
        size = (8,) * self.dimensions
        own = next(itertools.chain(self.parameters(), self.buffers()), theta)
        start = theta.to(own.device, torch.float32)
        moved = jacobian(lambda theta: self(theta[None], size).flatten(), start).to(theta.device)
        shifts = torch.eye(self.dimensions, dtype=moved.dtype).repeat(math.prod(size), 1)
        return torch.linalg.pinv(moved) @ shifts.to(theta.device)

    def forward(self, theta: Theta, size: Size) -> GridsND:
        return self.grid(self.bound(theta), size)


class ComposableFamily(Family):
    """A family that is closed under composition and inversion."""

    @abstractmethod
    def compose(self, first: Theta, then: Theta) -> Theta:
        """Compose two warps, `first` before `then`."""

    @abstractmethod
    def inverse(self, theta: Theta) -> Theta:
        """Return the theta of the inverse map."""


class Translation(Family):
    """A crop of fixed size: (t_x, t_y).

    The paper uses it for birds (section 4.3). It is not closed under composition, which would
    change the scale.

    Args:
        scale: side of the crop / side of the image.

    >>> Translation(0.5).tile(2)
    tensor([[-0.5000,  0.0000],
            [ 0.5000,  0.0000]])
    """

    identity = (0.0, 0.0)

    def __init__(self, scale: float = 1.0) -> None:
        super().__init__()
        if not scale > 0:
            raise ValueError(
                f"scale {scale} of a crop must be greater than 0; 0.5 is half of the image's side"
            )
        self.scale = scale

    def grid(self, theta: Float[Tensor, "batch 2"], size: Size) -> Grids:
        return affine.grid(affine.from_translation(theta, self.scale), to_plane(size))

    def tile(self, n: int) -> Float[Tensor, "n 2"]:
        return _tile_centres(n)[1]


class Affine(ComposableFamily):
    """Affine maps: (a, b, t_x, c, d, t_y), equation 1.

    >>> shift = torch.tensor([[1.0, 0.0, 0.5, 0.0, 1.0, 0.0]])
    >>> Affine().inverse(Affine().compose(shift, shift))
    tensor([[ 1., -0., -1., -0.,  1.,  0.]])
    """

    identity = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)

    def grid(self, theta: Float[Tensor, "batch 6"], size: Size) -> Grids:
        return affine.grid(theta, to_plane(size))

    compose = staticmethod(affine.compose)
    inverse = staticmethod(affine.inverse)


class _AffineSubgroup(ComposableFamily):
    """Base class of families of affine maps with fewer parameters."""

    @abstractmethod
    def to_affine(self, theta: Theta) -> Float[Tensor, "batch 6"]:
        """Convert theta to affine parameters."""

    @abstractmethod
    def from_affine(self, theta: Float[Tensor, "batch 6"]) -> Theta:
        """Convert affine parameters to theta."""

    def grid(self, theta: Theta, size: Size) -> Grids:
        return affine.grid(self.to_affine(theta), to_plane(size))

    def compose(self, first: Theta, then: Theta) -> Theta:
        return self.from_affine(affine.compose(self.to_affine(first), self.to_affine(then)))

    def inverse(self, theta: Theta) -> Theta:
        return self.from_affine(affine.inverse(self.to_affine(theta)))


class Attention(_AffineSubgroup):
    """A crop of any size: (s, t_x, t_y), equation 2.

    >>> Attention().to_affine(torch.tensor([[0.5, 0.25, -0.25]])).tolist()
    [[0.5, 0.0, 0.25, 0.0, 0.5, -0.25]]
    """

    identity = (1.0, 0.0, 0.0)

    to_affine = staticmethod(affine.from_attention)
    from_affine = staticmethod(affine.to_attention)

    def tile(self, n: int) -> Float[Tensor, "n 3"]:
        rows, centres = _tile_centres(n)
        return torch.cat([torch.full((n, 1), 1 / rows), centres], dim=1)


class Similarity(_AffineSubgroup):
    """A rotated crop: (s cos, s sin, t_x, t_y).

    >>> Similarity().to_affine(torch.tensor([[0.0, 0.5, 0.25, 0.0]])).tolist()
    [[0.0, -0.5, 0.25, 0.5, 0.0, 0.0]]
    """

    identity = (1.0, 0.0, 0.0, 0.0)

    to_affine = staticmethod(affine.from_similarity)
    from_affine = staticmethod(affine.to_similarity)


class Projective(ComposableFamily):
    """Homographies: (h1 ... h8), the last entry is 1.

    >>> Projective()(torch.tensor([Projective.identity]), (28, 28)).shape
    torch.Size([1, 28, 28, 2])
    """

    identity = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0)

    def grid(self, theta: Float[Tensor, "batch 8"], size: Size) -> Grids:
        return projective.grid(theta, to_plane(size))

    compose = staticmethod(projective.compose)
    inverse = staticmethod(projective.inverse)


class Affine3D(ComposableFamily):
    """Affine maps of volumes (appendix A.3).

    theta has 12 numbers, the rows of a 3 x 4 matrix.

    >>> Affine3D()(torch.tensor([Affine3D.identity]), (4, 5, 6)).shape
    torch.Size([1, 4, 5, 6, 3])
    """

    identity = (1.0, 0.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 1.0, 0.0)
    dimensions = 3

    def grid(
        self, theta: Float[Tensor, "batch 12"], size: Size
    ) -> Float[Tensor, "batch depth height width 3"]:
        depth, height, width = size
        return volume.grid(theta, (depth, height, width))

    compose = staticmethod(volume.compose)
    inverse = staticmethod(volume.inverse)


def to_plane(size: Size) -> tuple[int, int]:
    """Return a size as (height, width)."""
    height, width = size
    return height, width


def _tile_centres(n: int) -> tuple[int, Float[Tensor, "n 2"]]:
    """Return the number of rows, and all centres.

    rows x columns = n with at least as many columns as rows, as nearly equal as possible.
    """
    rows = max(r for r in range(1, math.isqrt(n) + 1) if n % r == 0)
    return rows, lattice.points((rows, n // rows), torch.empty(0)).flatten(0, 1)

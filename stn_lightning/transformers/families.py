"""Families of transformations: how many numbers theta has, which of them are the identity, and
theta -> grid.

A family is what a transformer regresses; a new one is a subclass of `Family` with `identity` and
`grid`.

Reference:
    Jaderberg et al. 2015, section 3.2.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.functional import jacobian

from stn_lightning.geometry import (
    affine,
    diffeomorphic,
    lattice,
    projective,
    thin_plate_spline,
    volume,
)
from stn_lightning.geometry.lattice import upcast

Size = tuple[int, ...]
"""(height, width), or (depth, height, width)."""


class Family(nn.Module, ABC):
    """Base class of families of transformations of the plane or of space.

    `family(theta, size)` is the sampling grid of a regressed theta: `grid(bound(theta), size)`.
    """

    identity: tuple[float, ...]
    """The theta that leaves the image as it is; its length is the number of parameters."""

    dimensions = 2
    """Number of coordinates of a point: 2 in images, 3 in volumes."""

    @abstractmethod
    def grid(
        self, theta: Float[Tensor, "batch numbers"], size: Size
    ) -> Float[Tensor, "batch *size dimensions"]:
        """Return the sampling grid for an output of `size`, in float32 or more."""

    def bound(self, theta: Float[Tensor, "batch numbers"]) -> Float[Tensor, "batch numbers"]:
        """Return the theta that is applied where `theta` is regressed."""
        return theta

    def unbound(self, theta: Float[Tensor, "batch numbers"]) -> Float[Tensor, "batch numbers"]:
        """Return the theta to regress so that `theta` is applied; the inverse of `bound`."""
        return theta

    def tile(self, n: int) -> Float[Tensor, "n numbers"]:
        """Return `n` thetas whose crops stand side by side and cover the image.

        Raises:
            ValueError: the family cannot be tiled.
        """
        raise ValueError(
            f"{type(self).__name__} cannot be tiled; take Translation or Attention, or another "
            "start, for example NoisyIdentity"
        )

    def translation(self, theta: Float[Tensor, " numbers"]) -> Float[Tensor, "numbers dimensions"]:
        """Return by how much theta changes when the crop moves by 1 along x, y (and z).

        By least squares over 8 points along each axis: exact where the grid is linear in theta.
        """
        size = (8,) * self.dimensions
        moved = jacobian(lambda theta: self(theta[None], size).flatten(), theta)
        return torch.linalg.pinv(moved) @ torch.eye(self.dimensions).repeat(math.prod(size), 1)

    def forward(
        self, theta: Float[Tensor, "batch numbers"], size: Size
    ) -> Float[Tensor, "batch *size dimensions"]:
        return self.grid(self.bound(theta), size)


class ComposableFamily(Family):
    """A family that is closed under composition and inversion (a group, where theta is not
    singular).
    """

    @abstractmethod
    def compose(
        self, first: Float[Tensor, "batch numbers"], then: Float[Tensor, "batch numbers"]
    ) -> Float[Tensor, "batch numbers"]:
        """The one warp that does what warping with `first` and then warping the result with `then`
        does.
        """

    @abstractmethod
    def inverse(self, theta: Float[Tensor, "batch numbers"]) -> Float[Tensor, "batch numbers"]:
        """The theta of the map back."""


class Translation(Family):
    """(t_x, t_y): a crop of fixed size that can be moved (the birds of the paper: `scale` 0.5).

    Args:
        scale: side of the crop over side of the image. Fixed, so that two of them do not compose to
            a third.
    """

    identity = (0.0, 0.0)

    def __init__(self, scale: float = 1.0) -> None:
        super().__init__()
        if not scale > 0:
            raise ValueError(
                f"scale {scale} of a crop must be greater than 0; 0.5 is half the image's side"
            )
        self.scale = scale

    def grid(
        self, theta: Float[Tensor, "batch 2"], size: Size
    ) -> Float[Tensor, "batch height width 2"]:
        return affine.grid(affine.from_translation(theta, self.scale), _plane(size))

    def tile(self, n: int) -> Float[Tensor, "n 2"]:
        return _tile_centres(n)[1]


class Affine(ComposableFamily):
    """(a, b, t_x, c, d, t_y), the paper's equation 1."""

    identity = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)

    def grid(
        self, theta: Float[Tensor, "batch 6"], size: Size
    ) -> Float[Tensor, "batch height width 2"]:
        return affine.grid(theta, _plane(size))

    def compose(
        self, first: Float[Tensor, "batch 6"], then: Float[Tensor, "batch 6"]
    ) -> Float[Tensor, "batch 6"]:
        return affine.compose(first, then)

    def inverse(self, theta: Float[Tensor, "batch 6"]) -> Float[Tensor, "batch 6"]:
        return affine.inverse(theta)


class _AffineSubgroup(ComposableFamily):
    """A family whose maps are affine, with fewer parameters."""

    @abstractmethod
    def to_affine(self, theta: Float[Tensor, "batch numbers"]) -> Float[Tensor, "batch 6"]: ...

    @abstractmethod
    def from_affine(self, theta: Float[Tensor, "batch 6"]) -> Float[Tensor, "batch numbers"]: ...

    def grid(
        self, theta: Float[Tensor, "batch numbers"], size: Size
    ) -> Float[Tensor, "batch height width 2"]:
        return affine.grid(self.to_affine(theta), _plane(size))

    def compose(
        self, first: Float[Tensor, "batch numbers"], then: Float[Tensor, "batch numbers"]
    ) -> Float[Tensor, "batch numbers"]:
        return self.from_affine(affine.compose(self.to_affine(first), self.to_affine(then)))

    def inverse(self, theta: Float[Tensor, "batch numbers"]) -> Float[Tensor, "batch numbers"]:
        return self.from_affine(affine.inverse(self.to_affine(theta)))


class Attention(_AffineSubgroup):
    """(s, t_x, t_y): a crop of any size, anywhere; the paper's equation 2."""

    identity = (1.0, 0.0, 0.0)

    def to_affine(self, theta: Float[Tensor, "batch 3"]) -> Float[Tensor, "batch 6"]:
        return affine.from_attention(theta)

    def from_affine(self, theta: Float[Tensor, "batch 6"]) -> Float[Tensor, "batch 3"]:
        return affine.to_attention(theta)

    def tile(self, n: int) -> Float[Tensor, "n 3"]:
        rows, centres = _tile_centres(n)
        return torch.cat([torch.full((n, 1), 1 / rows), centres], dim=1)


class Similarity(_AffineSubgroup):
    """(s cos, s sin, t_x, t_y): a turned crop of any size, anywhere."""

    identity = (1.0, 0.0, 0.0, 0.0)

    def to_affine(self, theta: Float[Tensor, "batch 4"]) -> Float[Tensor, "batch 6"]:
        return affine.from_similarity(theta)

    def from_affine(self, theta: Float[Tensor, "batch 6"]) -> Float[Tensor, "batch 4"]:
        return affine.to_similarity(theta)


class Projective(ComposableFamily):
    """(h1 ... h8), a homography whose last entry is 1."""

    identity = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0)

    def grid(
        self, theta: Float[Tensor, "batch 8"], size: Size
    ) -> Float[Tensor, "batch height width 2"]:
        return projective.grid(theta, _plane(size))

    def compose(
        self, first: Float[Tensor, "batch 8"], then: Float[Tensor, "batch 8"]
    ) -> Float[Tensor, "batch 8"]:
        return projective.compose(first, then)

    def inverse(self, theta: Float[Tensor, "batch 8"]) -> Float[Tensor, "batch 8"]:
        return projective.inverse(theta)


class ThinPlateSpline(Family):
    """(dx_1, dy_1, ...): displacements of a K x K lattice of control points.

    Args:
        lattice_size: K; the paper's 16 points are 4 x 4.
    """

    points: Tensor
    solution: Tensor
    basis: Tensor | None

    def __init__(self, lattice_size: int = 4) -> None:
        super().__init__()
        points = thin_plate_spline.control_points(lattice_size)
        self.identity = (0.0,) * (2 * len(points))
        self.size: Size | None = None
        self.register_buffer("points", points, persistent=False)
        self.register_buffer("solution", thin_plate_spline.solve(points), persistent=False)
        self.register_buffer("basis", None, persistent=False)

    def grid(
        self, theta: Float[Tensor, "batch numbers"], size: Size
    ) -> Float[Tensor, "batch height width 2"]:
        return thin_plate_spline.grid(theta, self._basis(_plane(size)), _plane(size))

    def displacement(
        self, theta: Float[Tensor, "batch numbers"], size: Size
    ) -> Float[Tensor, "batch height width 2"]:
        """How far from itself each output pixel looks."""
        return thin_plate_spline.displacement(theta, self._basis(_plane(size)), _plane(size))

    def _basis(self, size: tuple[int, int]) -> Float[Tensor, "pixels points"]:
        """Kept for the last size; a graph that is being traced can keep nothing, and computes it
        anew unless it was kept before.
        """
        if size == self.size and self.basis is not None:
            return self.basis
        if torch.compiler.is_compiling():
            return thin_plate_spline.basis(self.points, size, self.solution)
        with torch.inference_mode(
            False
        ):  # a basis first needed in validation shall serve in training
            self.size, self.basis = size, thin_plate_spline.basis(self.points, size, self.solution)
        return self.basis

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "ThinPlateSpline":
        """Follow the module to another device, but stay in float64 where it goes to half precision."""
        before = dict(self.named_buffers(recurse=False))
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        for name, buffer in before.items():
            setattr(self, name, buffer.to(getattr(self, name).device))
        return self


class Diffeomorphic(Family):
    """(u_1, v_1, ...): velocities at a K x K lattice of control points; the map is where their flow
    leads, and does not fold.

    Between the control points a thin plate spline takes the velocity from one to the next.
    `docs/operations/diffeomorphic.md` says how large velocities may become.

    Args:
        lattice_size: K.
        resolution: side of the lattice on which the flow is integrated; errors fall with its
            square, time grows with it.
    """

    def __init__(self, lattice_size: int = 4, resolution: int = 32) -> None:
        super().__init__()
        if resolution < 2:
            raise ValueError(
                f"a flow on {resolution} x {resolution} points moves everything alike; take a resolution of 8 or more"
            )
        self.spline = ThinPlateSpline(lattice_size)
        self.identity = self.spline.identity
        self.resolution = resolution

    def grid(
        self, theta: Float[Tensor, "batch numbers"], size: Size
    ) -> Float[Tensor, "batch height width 2"]:
        return diffeomorphic.grid(
            self.spline.displacement(theta, (self.resolution, self.resolution)), _plane(size)
        )

    def inverse(self, theta: Float[Tensor, "batch numbers"]) -> Float[Tensor, "batch numbers"]:
        """The theta of the map back, up to what the flow's interpolation has lost."""
        return -theta


class LearntTargetGrid(Family):
    """T = M_theta B: M_theta is the affine map that each image gets, B the target lattice, learnt,
    and the same for all images.

    The paper's section 3.2 proposes it: "it is possible to not only learn how to predict theta for
    a sample, but also to learn B for the task at hand". B starts as the regular lattice; what is
    learnt are displacements of K x K control points of a spline, 2 K^2 weights.

    Args:
        lattice_size: K.
    """

    identity = Affine.identity

    def __init__(self, lattice_size: int = 4) -> None:
        super().__init__()
        self.spline = ThinPlateSpline(lattice_size)
        self.target = nn.Parameter(torch.zeros(1, len(self.spline.identity)))

    def grid(
        self, theta: Float[Tensor, "batch 6"], size: Size
    ) -> Float[Tensor, "batch height width 2"]:
        return affine.map_points(theta, self.spline(self.target.to(upcast(theta).dtype), size))


class Affine3D(ComposableFamily):
    """The rows of a 3 x 4 matrix, for volumes (appendix A.3)."""

    identity = (1.0, 0.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 1.0, 0.0)
    dimensions = 3

    def grid(
        self, theta: Float[Tensor, "batch 12"], size: Size
    ) -> Float[Tensor, "batch depth height width 3"]:
        depth, height, width = size
        return volume.grid(theta, (depth, height, width))

    def compose(
        self, first: Float[Tensor, "batch 12"], then: Float[Tensor, "batch 12"]
    ) -> Float[Tensor, "batch 12"]:
        return volume.compose(first, then)

    def inverse(self, theta: Float[Tensor, "batch 12"]) -> Float[Tensor, "batch 12"]:
        return volume.inverse(theta)


def _plane(size: Size) -> tuple[int, int]:
    height, width = size
    return height, width


def _tile_centres(n: int) -> tuple[int, Float[Tensor, "n 2"]]:
    """Return the number of rows of `n` tiles, and their centres in reading order.

    Rows and columns are as near to a square as `n` divides, with more columns than rows.
    """
    rows = max(r for r in range(1, math.isqrt(n) + 1) if n % r == 0)
    return rows, lattice.points((rows, n // rows), torch.empty(0)).flatten(0, 1)

"""Families with control points: splines, flows, learnt target grids.

Reference:
    Jaderberg et al. 2015, section 3.2.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from stn_lightning.geometry import affine, diffeomorphic, lattice, thin_plate_spline
from stn_lightning.shapes import Grids, Theta
from stn_lightning.transformers.families import Affine, Family, Size, to_plane


class ThinPlateSpline(Family):
    """Displacements of K x K control points: (dx_1, dy_1, ...).

    Args:
        lattice_size: K; the paper's 16 points are 4 x 4.

    >>> len(ThinPlateSpline(4).identity)
    32
    """

    points: Tensor
    solution: Tensor

    def __init__(self, lattice_size: int = 4) -> None:
        super().__init__()
        points = thin_plate_spline.control_points(lattice_size)
        self.identity = (0.0,) * (2 * len(points))
        self._cached: tuple[Size, Tensor] | None = None
        self.register_buffer("points", points, persistent=False)
        self.register_buffer("solution", thin_plate_spline.solve(points), persistent=False)

    def grid(self, theta: Theta, size: Size) -> Grids:
        return thin_plate_spline.grid(theta, self._basis(to_plane(size)), to_plane(size))

    def displacement(self, theta: Theta, size: Size) -> Grids:
        """Return the displacement of each output pixel."""
        return thin_plate_spline.displacement(theta, self._basis(to_plane(size)), to_plane(size))

    def _basis(self, size: tuple[int, int]) -> Float[Tensor, "pixels points"]:
        """Return the basis for an output of `size`.

        It is stored for the next call, except while a graph is traced.
        """
        if torch.compiler.is_compiling():
            return thin_plate_spline.basis(self.points, size, self.solution)
        cached = self._cached  # read and written as one, as several threads may use the family
        if cached is not None and cached[0] == size:
            return cached[1]
        with torch.inference_mode(False):  # a basis stored in validation is also used in training
            basis = thin_plate_spline.basis(self.points, size, self.solution)
        self._cached = (size, basis)
        return basis

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "ThinPlateSpline":
        """Move to another device, but stay in float64."""
        before = dict(self.named_buffers(recurse=False))
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self._cached = None
        for name, buffer in before.items():
            setattr(self, name, buffer.to(getattr(self, name).device))
        return self


class Diffeomorphic(Family):
    """Flows, which never fold: velocities (u_1, v_1, ...).

    theta holds the velocities at K x K control points; a thin plate spline interpolates them.
    `docs/operations/diffeomorphic.md` says how large they may become.

    Args:
        lattice_size: K.
        resolution: the flow is integrated on `resolution` x `resolution` points. Its error and its
            time are proportional to 1 / resolution^2 and resolution^2.

    >>> family = Diffeomorphic(3)
    >>> family(torch.zeros(1, 18), (5, 5)).equal(lattice.points((5, 5), torch.empty(0))[None])
    True
    """

    def __init__(self, lattice_size: int = 4, resolution: int = 32) -> None:
        super().__init__()
        if resolution < 2:
            raise ValueError(
                f"a flow on {resolution} x {resolution} points is a translation; "
                "give a resolution of 8 or more"
            )
        self.spline = ThinPlateSpline(lattice_size)
        self.identity = self.spline.identity
        self.resolution = resolution

    def grid(self, theta: Theta, size: Size) -> Grids:
        velocity = self.spline.displacement(theta, (self.resolution, self.resolution))
        return diffeomorphic.grid(velocity, to_plane(size))

    def inverse(self, theta: Theta) -> Theta:
        """Return the inverse map's theta, up to interpolation."""
        return -theta


class LearntTargetGrid(Family):
    """An affine map of a learnt target grid.

    T = M_theta B, where M_theta is regressed for each image and the target grid B is the same for
    all images. Section 3.2 of the paper proposes it: "it is possible to not only learn how to
    predict theta for a sample, but also to learn B for the task at hand". B is a thin plate spline
    whose K x K displacements are learnt, 2 K^2 weights. It starts as the regular lattice.

    Args:
        lattice_size: K.

    >>> sum(parameter.numel() for parameter in LearntTargetGrid(4).parameters())
    32
    """

    identity = Affine.identity

    def __init__(self, lattice_size: int = 4) -> None:
        super().__init__()
        self.spline = ThinPlateSpline(lattice_size)
        self.target = nn.Parameter(torch.zeros(1, len(self.spline.identity)))

    def grid(self, theta: Float[Tensor, "batch 6"], size: Size) -> Grids:
        return affine.map_points(
            theta, self.spline(self.target.to(lattice.upcast(theta).dtype), size)
        )

"""Thin plate splines on any set of control points.

A spline is linear in the displacements of its control points, so the linear system is solved once,
in float64. `basis` says how far a unit displacement of each control point moves each output pixel,
and a grid is a matrix product with it.

Convention:
    theta holds the displacements (dx_1, dy_1, dx_2, dy_2, ...) of the control points in normalised
    units, row by row; zeros are the identity. The output's control point p samples the input at
    p + (dx, dy).

Reference:
    Jaderberg et al. 2015, section 3.2 (16 points, 32 numbers); Bookstein 1989, "Principal Warps".
"""

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from stn_lightning.geometry import lattice
from stn_lightning.shapes import Grids, Theta

CONDITION_LIMIT = 1e10
"""Largest condition number. float64 has 16 digits; beyond it fewer than 6 of them are right."""


def control_points(lattice_size: int = 4) -> Float64[Tensor, "points 2"]:
    """Return a square lattice of points, row by row.

    The outermost points are on the border of the image.

    Args:
        lattice_size: number of points along each axis.

    Raises:
        ValueError: `lattice_size` is less than 2.
    """
    if lattice_size < 2:
        raise ValueError(
            f"a lattice of {lattice_size} x {lattice_size} control points spans no area; "
            "take 2 x 2 or more (the paper takes 4 x 4)"
        )
    ticks = torch.linspace(-1, 1, lattice_size, dtype=torch.float64)
    return torch.stack(torch.meshgrid(ticks, ticks, indexing="ij")[::-1], dim=-1).flatten(0, 1)


def solve(points: Float[Tensor, "points 2"]) -> Float64[Tensor, "terms points"]:
    """Return the spline's coefficients for unit displacements.

    Its terms are a radial function around each point, a constant, x and y.

    Raises:
        ValueError: the points coincide or lie on one line, so that the spline is not unique.
    """
    points = points.double()
    n = len(points)
    affine = torch.cat([torch.ones_like(points[:, :1]), points], dim=1)  # (N, 3)
    system = points.new_zeros(n + 3, n + 3)
    system[:n, :n] = _bending(points, points)
    system[:n, n:], system[n:, :n] = affine, affine.T
    if not torch.linalg.cond(system) < CONDITION_LIMIT:  # NaN counts as too large
        raise ValueError(
            f"no unique thin plate spline goes through these {n} control points: some coincide or "
            "all lie on one line; give at least 3 distinct points that are not in line"
        )
    return torch.linalg.solve(system, torch.eye(n + 3, n, dtype=points.dtype, device=points.device))


def basis(
    points: Float[Tensor, "points 2"],
    size: tuple[int, int],
    solution: Float64[Tensor, "terms points"] | None = None,
) -> Float64[Tensor, "pixels points"]:
    """Return pixel displacements for unit displacements of the points.

    Args:
        points: control points.
        size: (height, width) of the output.
        solution: result of `solve(points)`, which is computed when left out. With it the function
            can be traced into a graph.

    Returns:
        A matrix whose rows sum to 1, in normalised units.
    """
    points, solution = points.double(), solve(points) if solution is None else solution
    pixels = lattice.points(size, points).flatten(0, 1)  # (H*W, 2)
    terms = [_bending(pixels, points), torch.ones_like(pixels[:, :1]), pixels]
    return torch.cat(terms, dim=1) @ solution


def grid(theta: Theta, basis: Float64[Tensor, "pixels points"], size: tuple[int, int]) -> Grids:
    """Return the sampling grid for an output size.

    Args:
        theta: displacements of the control points.
        basis: `basis(points, size)` for these control points.
        size: (height, width) of the output.
    """
    moved = displacement(theta, basis, size)
    return lattice.points(size, moved) + moved


def displacement(
    theta: Theta, basis: Float64[Tensor, "pixels points"], size: tuple[int, int]
) -> Grids:
    """Return each output pixel's displacement; see `grid`."""
    theta = lattice.upcast(theta)
    # (B*2, N): one large product instead of B small ones
    moves = theta.double().unflatten(1, (-1, 2)).transpose(1, 2).flatten(0, 1)
    # in float64, which neither autocast nor TF32 rounds
    moved = (moves @ basis.T).to(theta.dtype)  # (B*2, H*W)
    return moved.unflatten(0, (-1, 2)).unflatten(2, size).movedim(1, -1)


def _bending(
    places: Float64[Tensor, "places 2"], points: Float64[Tensor, "points 2"]
) -> Float64[Tensor, "places points"]:
    """Return the spline's radial function, r^2 log r^2."""
    squared = (places[:, None] - points[None]).square().sum(-1)
    return torch.special.xlogy(squared, squared)

"""Thin plate splines on any set of control points, a K x K lattice by default.

The spline that moves the control points is linear in how far they move, so the linear system is
solved once, in float64:
`basis` says how much each control point's displacement moves each output pixel, and a grid is one
product with it.

Convention:
    theta holds the displacements (dx_1, dy_1, dx_2, dy_2, ...) of the points that the control
    points look at, in normalised units, points in reading order; zeros are the identity. The
    output's control point p looks at p + d.

Reference:
    Jaderberg et al. 2015, section 3.2 (16 points, 32 numbers); Bookstein 1989, "Principal Warps".
"""

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from stn_lightning.geometry import lattice

CONDITION_LIMIT = 1e10
"""float64 carries 16 digits; beyond this condition fewer than 6 of them are right."""


def control_points(k: int = 4) -> Float64[Tensor, "points 2"]:
    """A `k` x `k` lattice from border to border, in reading order.

    Raises:
        ValueError: where `k` is less than 2.
    """
    if k < 2:
        raise ValueError(
            f"a lattice of {k} x {k} control points spans no area; take 2 x 2 or more (the paper takes 4 x 4)"
        )
    ticks = torch.linspace(-1, 1, k, dtype=torch.float64)
    return torch.stack(torch.meshgrid(ticks, ticks, indexing="ij")[::-1], dim=-1).flatten(0, 1)


def solve(points: Float[Tensor, "points 2"]) -> Float64[Tensor, "terms points"]:
    """How much of each of the spline's terms (a bending at each point, a constant, x, y) there is
    when each of `points` moves by one.

    Raises:
        ValueError: where the points coincide or lie on one line, so that no unique spline goes
            through them.
    """
    points = points.double()
    n = len(points)
    affine = torch.cat([torch.ones_like(points[:, :1]), points], dim=1)  # (N, 3)
    system = points.new_zeros(n + 3, n + 3)
    system[:n, :n] = _bending(points, points)
    system[:n, n:], system[n:, :n] = affine, affine.T
    if not torch.linalg.cond(system) < CONDITION_LIMIT:  # not finite counts as too large
        raise ValueError(
            f"no unique thin plate spline goes through these {n} control points: some coincide or all lie on one line; "
            "give at least 3 distinct points that are not in line"
        )
    return torch.linalg.solve(system, torch.eye(n + 3, n, dtype=points.dtype, device=points.device))


def basis(
    points: Float[Tensor, "points 2"],
    size: tuple[int, int],
    solution: Float64[Tensor, "terms points"] | None = None,
) -> Float64[Tensor, "pixels points"]:
    """How far each pixel of `size` moves when each of `points` moves by one; every row sums to 1.

    Args:
        solution: `solve(points)`, where it is at hand; what remains can be traced into a graph.
    """
    points, solution = points.double(), solve(points) if solution is None else solution
    pixels = lattice.points(size, points).flatten(0, 1)  # (H*W, 2)
    return (
        torch.cat([_bending(pixels, points), torch.ones_like(pixels[:, :1]), pixels], dim=1)
        @ solution
    )


def grid(
    theta: Float[Tensor, "batch numbers"],
    basis: Float64[Tensor, "pixels points"],
    size: tuple[int, int],
) -> Float[Tensor, "batch height width 2"]:
    """Where in the input each of `size`'s output pixels looks.

    Args:
        basis: `basis(points, size)` for as many points as theta holds displacements.
    """
    moved = displacement(theta, basis, size)
    return lattice.points(size, moved) + moved


def displacement(
    theta: Float[Tensor, "batch numbers"],
    basis: Float64[Tensor, "pixels points"],
    size: tuple[int, int],
) -> Float[Tensor, "batch height width 2"]:
    """How far from itself each of `size`'s output pixels looks, by the same spline."""
    theta = lattice.exact(theta)
    moves = (
        theta.double().unflatten(1, (-1, 2)).transpose(1, 2).flatten(0, 1)
    )  # (B*2, N): one large product instead of B small ones
    # float64: the one matrix product of the geometry, which neither autocast nor TF32 touches in
    # this precision
    moved = (moves @ basis.T).to(theta.dtype)  # (B*2, H*W)
    return moved.unflatten(0, (-1, 2)).unflatten(2, size).movedim(1, -1)


def _bending(
    at: Float64[Tensor, "places 2"], points: Float64[Tensor, "points 2"]
) -> Float64[Tensor, "places points"]:
    """U(r) = r^2 log r^2, the bending of a thin plate; 0 at r = 0."""
    squared = (at[:, None] - points[None]).square().sum(-1)
    return torch.special.xlogy(squared, squared)

"""Maps that never fold: flows of constant velocity fields.

An output point follows the field for a unit of time and reads the input where it arrives. The flow
is integrated by scaling and squaring: for a short time it is nearly the velocity; applying the map
to itself doubles the time.

Convention:
    Velocities are in normalised units per unit of time, given at the pixel centres of an image of
    any size, interpolated bilinearly in between; out of bounds they are those of the nearest border
    pixel. Zero is the identity, where the grid's derivative with respect to a velocity is that of a
    displacement. The flow of -velocity is the inverse map, up to interpolation.

Reference:
    Arsigny et al. 2006, "A Log-Euclidean Framework for Statistics on Diffeomorphisms" (scaling and
    squaring); Skafte Detlefsen et al. 2018, "Deep Diffeomorphic Transformer Networks".
"""

from jaxtyping import Float
from torch import Tensor

from stn_lightning.geometry import lattice, sampling

SQUARINGS = 7
"""The first step lasts 2^-7: a field may stretch a hundredfold before that step folds."""


def grid(
    velocity: Float[Tensor, "batch rows columns 2"], size: tuple[int, int]
) -> Float[Tensor, "batch height width 2"]:
    """Return the sampling grid for an output of `size`."""
    points = lattice.points(velocity.shape[1:3], velocity)
    moved = velocity.movedim(-1, 1) / 2**SQUARINGS  # (B, 2, rows, columns), as an image
    for _ in range(SQUARINGS):
        moved = moved + sampling.bilinear(moved, points + moved.movedim(1, -1), "border")
    pixels = lattice.points(size, velocity).expand(velocity.shape[0], *size, 2)
    return pixels + sampling.bilinear(moved, pixels, "border").movedim(1, -1)

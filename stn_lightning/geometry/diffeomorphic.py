"""Maps that never fold: flows of constant velocity fields.

An output point moves along the velocity field for one unit of time and samples the input where it
arrives. The flow is integrated by scaling and squaring. In a short time a point moves by velocity
times time; composing the map with itself doubles the time.

Convention:
    Velocities are in normalised units per unit of time. They are given at the pixel centres of an
    image of any size and interpolated bilinearly; out of bounds the nearest border pixel counts.
    Velocity zero is the identity, and near it a velocity acts like a displacement. The flow of
    -velocity is the inverse map, up to interpolation.

Reference:
    Arsigny et al. 2006, "A Log-Euclidean Framework for Statistics on Diffeomorphisms" (scaling and
    squaring); Skafte Detlefsen et al. 2018, "Deep Diffeomorphic Transformer Networks".
"""

from jaxtyping import Float
from torch import Tensor

from stn_lightning.geometry import lattice, sampling
from stn_lightning.shapes import Grids

SQUARINGS = 7
"""The first step takes 2^-7 of the time. It folds only if a derivative of the velocity exceeds 2^7.
"""


def grid(velocity: Float[Tensor, "batch rows columns 2"], size: tuple[int, int]) -> Grids:
    """Return the sampling grid for an output size."""
    points = lattice.points(velocity.shape[1:3], velocity)
    moved = velocity.movedim(-1, 1) / 2**SQUARINGS  # (B, 2, rows, columns), as an image
    for _ in range(SQUARINGS):
        moved = moved + sampling.bilinear(moved, points + moved.movedim(1, -1), "border")
    pixels = lattice.points(size, velocity).expand(velocity.shape[0], *size, 2)
    return pixels + sampling.bilinear(moved, pixels, "border").movedim(1, -1)

"""Maps that never fold: the flow of a velocity field that does not change in time.

Each point of the output follows the field for a unit of time, and looks where it has arrived. The
flow is integrated by scaling and squaring: a short time at first, in which the flow is nearly the
velocity, and then the map is applied to itself, which doubles the time.

Convention:
    Velocities are in normalised units per unit of time, sampled at the pixel centres of an image of
    any size; in between they are interpolated bilinearly, outside they are those of the nearest
    border pixel. Zero is the identity, and there the grid's derivative with respect to a velocity
    is that of a displacement. The flow of -velocity is the inverse map, up to interpolation.

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
    """Where in the input each of `size`'s output pixels looks."""
    places = lattice.points(velocity.shape[1:3], velocity)
    moved = velocity.movedim(-1, 1) / 2**SQUARINGS  # (B, 2, rows, columns), as an image
    for _ in range(SQUARINGS):
        moved = moved + sampling.bilinear(moved, places + moved.movedim(1, -1), "border")
    pixels = lattice.points(size, velocity)
    return pixels + sampling.bilinear(
        moved, pixels.expand(velocity.shape[0], *pixels.shape), "border"
    ).movedim(1, -1)

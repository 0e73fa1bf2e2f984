"""Geometry: pure functions on tensors, in one convention.

Each family is a module with a function `grid` that turns its parameters theta into a sampling grid:
`affine`, `projective`, `thin_plate_spline`, `diffeomorphic`, `volume`. `sampling` reads an image at
a grid, `antialiasing` at a grid that shrinks it, and `wide` widens the grid's gradient. `lattice`
states the convention.
"""

from stn_lightning.geometry import (
    affine,
    antialiasing,
    deterministic,
    diffeomorphic,
    lattice,
    projective,
    sampling,
    thin_plate_spline,
    volume,
    wide,
)

__all__ = [
    "affine",
    "antialiasing",
    "deterministic",
    "diffeomorphic",
    "lattice",
    "projective",
    "sampling",
    "thin_plate_spline",
    "volume",
    "wide",
]

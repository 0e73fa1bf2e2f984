"""Geometry of spatial transformers: pure functions on tensors, one convention, at least float32.

Each family is a module of functions that turn its parameters theta into a sampling grid
(`affine.grid`, `projective.grid`, `thin_plate_spline.grid`, `diffeomorphic.grid`, `volume.grid`);
`sampling` reads an image at a grid, `antialiasing` at one that shrinks it, `wide` gives the grid a
gradient that sees further. The convention is stated in `lattice`.
"""

from stn_lightning.geometry import (
    affine,
    alignment,
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
    "alignment",
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

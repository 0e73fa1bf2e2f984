"""Geometry: pure functions on tensors, in one convention.

`lattice` defines the convention for coordinates. A module for each family of transformations
(`affine`, `projective`, `thin_plate_spline`, `diffeomorphic`, `volume`) has a function `grid` that
converts parameters theta to a sampling grid. `sampling` samples an image at a grid, `antialiasing`
does so without aliasing, and `wide` gives the grid a gradient from further away.
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

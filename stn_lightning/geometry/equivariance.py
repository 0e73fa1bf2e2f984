"""Measure whether a crop moves with its image.

Reference:
    Thewlis et al. 2017, "Unsupervised learning of object frames by dense equivariant image
    labelling", where the pixels' coordinates are to move with the image. Here the crop is.
"""

from jaxtyping import Float
from torch import Tensor

from stn_lightning.geometry import affine
from stn_lightning.geometry.lattice import upcast
from stn_lightning.shapes import Grids, Theta

_SMOOTH = 0.01
"""Distance below which the penalty is quadratic, in halves of the crop's side, about."""


def equivariance_penalty(grid: Grids, moved_grid: Grids, move: Theta) -> Float[Tensor, " batch"]:
    """Penalise crops that do not move with their images.

    The penalty of an image is the root of the mean square distance between the points that both
    crops sample at the same place, relative to the size of the crop: 0 if the crop of the moved
    image is the crop of the image, 0.1 if it is off by a twentieth of the crop's side. Large
    distances count by their length, not by their square, so that a few symmetrical objects, whose
    crops are upside down, do not outweigh the rest.

    Args:
        grid: sampling grid of the image's crop.
        moved_grid: sampling grid of the crop of the moved image.
        move: theta of the affine map from the moved image to the image.

    Convention:
        The distance is divided by the mean size of both crops, which has a gradient, too. Otherwise
        crops would shrink to a point, as the points of small crops are close to each other.
    """
    wanted, found = upcast(grid), affine.map_points(move, moved_grid)
    size = (_mean_square(wanted) + _mean_square(found)) / 2
    distance = (found - wanted).square().sum(-1).mean((1, 2)) / size.clamp(min=1e-6)
    return (distance + _SMOOTH**2).sqrt() - _SMOOTH


def _mean_square(grid: Grids) -> Float[Tensor, " batch"]:
    """Return the mean square of half a crop's side."""
    centred = grid - grid.mean((1, 2), keepdim=True)
    return centred.square().sum(-1).mean((1, 2)) * 1.5  # 2/3 for points from -1 to 1 along x and y

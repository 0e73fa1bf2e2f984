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
        The crop's size has no gradient, so that crops do not grow to lower the penalty.
    """
    wanted = upcast(grid)
    found = affine.map_points(move, moved_grid)
    centred = (wanted - wanted.mean((1, 2), keepdim=True)).detach()
    # an untransformed crop of points from -1 to 1 along both axes has a mean square of 2/3
    half_side = (centred.square().sum(-1).mean((1, 2)) * 1.5).clamp(min=1e-6)
    distance = (found - wanted).square().sum(-1).mean((1, 2)) / half_side
    return (distance + _SMOOTH**2).sqrt() - _SMOOTH

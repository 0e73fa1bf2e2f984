"""Affine maps of space, 12 parameters, for volumes.

Convention:
    theta holds the rows of a 3x4 matrix, for points (x, y, z); x runs along the width, y along the
    height, z along the depth. A volume's size is (depth, height, width).

Reference:
    Jaderberg et al. 2015, appendix A.3.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from stn_lightning.geometry.lattice import axis, upcast
from stn_lightning.geometry.matrices import adjugate, multiply

Theta = Float[Tensor, "batch 12"]
"""Rows of a 3 x 4 matrix."""


def grid(theta: Theta, size: tuple[int, int, int]) -> Float[Tensor, "batch depth height width 3"]:
    """Return the sampling grid for an output size."""
    m = upcast(theta)[:, :, None, None, None].unflatten(1, (3, 4))  # (B, 3, 4, 1, 1, 1)
    x = axis(size[2], m)[None, None, None, :]
    y = axis(size[1], m)[None, None, :, None]
    z = axis(size[0], m)[None, :, None, None]
    rows = [m[:, i, 0] * x + (m[:, i, 1] * y + (m[:, i, 2] * z + m[:, i, 3])) for i in range(3)]
    return torch.stack(rows, dim=-1)


def compose(first: Theta, then: Theta) -> Theta:
    """Compose two warps, `first` before `then`.

    Convention:
        theta maps output to input, so the composed map is first(then(point)).
    """
    a, b = upcast(first).unflatten(1, (3, 4)), upcast(then).unflatten(1, (3, 4))
    shift = torch.cat([torch.zeros_like(a[:, :, :3]), a[:, :, 3:]], dim=2)
    return (multiply(a[:, :, :3], b) + shift).flatten(1)


def inverse(theta: Theta) -> Theta:
    """Invert the map; not finite if theta is singular."""
    matrix = upcast(theta).unflatten(1, (3, 4))
    cofactors = adjugate(matrix[:, :, :3])
    determinant = (matrix[:, 0, :3] * cofactors[:, :, 0]).sum(1)
    linear = cofactors / determinant[:, None, None]
    shift = (linear * matrix[:, None, :, 3]).sum(2, keepdim=True)
    return torch.cat([linear, -shift], dim=2).flatten(1)

"""Affine maps of space, 12 parameters, for volumes.

Convention:
    theta holds the rows of a 3x4 matrix, for points (x, y, z); x runs along the width, y the
    height, z the depth. A volume's size is (depth, height, width).

Reference:
    Jaderberg et al. 2015, appendix A.3.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from stn_lightning.geometry.lattice import axis, exact


def grid(
    theta: Float[Tensor, "batch 12"], size: tuple[int, int, int]
) -> Float[Tensor, "batch depth height width 3"]:
    """Where in the input each of `size`'s output voxels looks."""
    m = exact(theta)[:, :, None, None, None].unflatten(1, (3, 4))  # (B, 3, 4, 1, 1, 1)
    x = axis(size[2], m)[None, None, None, :]
    y = axis(size[1], m)[None, None, :, None]
    z = axis(size[0], m)[None, :, None, None]
    rows = [m[:, i, 0] * x + (m[:, i, 1] * y + (m[:, i, 2] * z + m[:, i, 3])) for i in range(3)]
    return torch.stack(rows, dim=-1)


def compose(
    first: Float[Tensor, "batch 12"], then: Float[Tensor, "batch 12"]
) -> Float[Tensor, "batch 12"]:
    """The one warp that does what warping with `first` and then warping the result with `then`
    does.

    Convention:
        theta maps output to input, so the composed map is first(then(point)).
    """
    a, b = exact(first).unflatten(1, (3, 4)), exact(then).unflatten(1, (3, 4))
    product = (a[:, :, :3, None] * b[:, None, :, :]).sum(2)  # (B, 3, 4), no matrix product
    shift = torch.cat([torch.zeros_like(a[:, :, :3]), a[:, :, 3:]], dim=2)
    return (product + shift).flatten(1)


def inverse(theta: Float[Tensor, "batch 12"]) -> Float[Tensor, "batch 12"]:
    """The map back, from input to output. Not finite where theta is singular."""
    r0, r1, r2 = exact(theta).unflatten(1, (3, 4))[:, :, :3].unbind(1)
    shift = exact(theta).unflatten(1, (3, 4))[:, :, 3]  # (B, 3)
    cross = torch.linalg.cross
    adjugate = torch.stack([cross(r1, r2), cross(r2, r0), cross(r0, r1)], dim=2)  # (B, 3, 3)
    determinant = (r0 * cross(r1, r2)).sum(1)
    linear = adjugate / determinant[:, None, None]
    return torch.cat([linear, -(linear * shift[:, None, :]).sum(2, keepdim=True)], dim=2).flatten(1)

"""Products and adjugates of small matrices, elementwise.

Autocast would round `torch.matmul` to bfloat16, and `torch.set_float32_matmul_precision` to TF32:
an error of up to a pixel.
"""

import torch
from jaxtyping import Float
from torch import Tensor


def multiply(
    a: Float[Tensor, "#batch rows 3"], b: Float[Tensor, "#batch 3 columns"]
) -> Float[Tensor, "batch rows columns"]:
    """Return the matrix product a b."""
    return (a[:, :, :, None] * b[:, None, :, :]).sum(2)


def adjugate(matrix: Float[Tensor, "batch 3 3"]) -> Float[Tensor, "batch 3 3"]:
    """Return the inverse times the determinant."""
    r0, r1, r2 = matrix.unbind(1)
    cross = torch.linalg.cross
    return torch.stack([cross(r1, r2), cross(r2, r0), cross(r0, r1)], dim=2)

"""Sampling with a deterministic gradient.

On a GPU the backward of `grid_sample` adds to the image's gradient by atomic operations, whose
order changes from run to run. Under `torch.use_deterministic_algorithms` it raises an error, even
if the image needs no gradient. `gather_sample` calls `grid_sample` in forward. Its backward uses
`gather` and `scatter_add`, which have deterministic implementations.

Convention:
    The padding is zeros. `align_corners` is that of `grid_sample`: -1 and 1 are the border of the
    canvas (False, as everywhere else here) or the centres of its outermost pixels (True).

Reference:
    pytorch#68959; Jaderberg et al. 2015, equations 6 and 7 (bilinear's gradients); Keys 1981
    (bicubic's kernel).
"""

import math
from collections.abc import Iterator, Sequence
from itertools import product
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd import Function
from torch.nn import functional

from stn_lightning.shapes import CropsND, GridsND, ImagesND

Kernel = Literal["bilinear", "nearest", "bicubic"]

_KEYS = -0.75
"""The free parameter of Keys' kernel, as in PyTorch."""


def deterministic_sample(
    canvas: ImagesND, grid: GridsND, kernel: Kernel = "bilinear", align_corners: bool = False
) -> CropsND:
    """Sample; deterministic under `torch.use_deterministic_algorithms`."""
    if canvas.is_cuda and torch.are_deterministic_algorithms_enabled():
        return gather_sample(canvas, grid, kernel, align_corners)
    return functional.grid_sample(canvas, grid, kernel, "zeros", align_corners=align_corners)


def gather_sample(
    canvas: ImagesND, grid: GridsND, kernel: Kernel = "bilinear", align_corners: bool = False
) -> CropsND:
    """Sample with a deterministic backward, on any device.

    Coordinates must be finite.
    """
    result: Tensor = _GatherSample.apply(canvas, grid, kernel, align_corners)
    return result


class _GatherSample(Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(canvas: Tensor, grid: Tensor, kernel: Kernel, align_corners: bool) -> Tensor:
        return functional.grid_sample(canvas, grid, kernel, "zeros", align_corners=align_corners)

    @staticmethod
    def setup_context(
        ctx: Any,
        inputs: tuple[Tensor, Tensor, Kernel, bool],
        output: Tensor,  # noqa: ARG004
    ) -> None:
        canvas, grid, ctx.kernel, ctx.align_corners = inputs
        ctx.save_for_backward(canvas, grid)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        """Use differentiable operations, so that there are second derivatives."""
        canvas, grid = ctx.saved_tensors
        gradient, pixels = gradients[0].flatten(2), canvas.flatten(2)  # (B, C, N), (B, C, M)
        points = grid.flatten(1, -2)  # (B, N, D)
        grad_canvas = torch.zeros_like(pixels) if ctx.needs_input_grad[0] else None
        grad_grid = torch.zeros_like(points) if ctx.needs_input_grad[1] else None
        for index, weight, slopes in _neighbours(
            points, canvas.shape[2:], ctx.kernel, ctx.align_corners
        ):
            index = index[:, None].expand_as(gradient)  # (B, C, N)
            if grad_canvas is not None:
                grad_canvas = grad_canvas.scatter_add(2, index, gradient * weight[:, None])
            if grad_grid is not None and ctx.kernel != "nearest":
                grad_grid = (
                    grad_grid + (gradient * pixels.gather(2, index)).sum(1)[..., None] * slopes
                )
        return (
            None if grad_canvas is None else grad_canvas.unflatten(2, canvas.shape[2:]),
            None if grad_grid is None else grad_grid.reshape(grid.shape),
            None,
            None,
        )


def _neighbours(
    points: Float[Tensor, "batch n dimensions"],
    size: Sequence[int],
    kernel: Kernel,
    align_corners: bool,
) -> Iterator[
    tuple[Int[Tensor, "batch n"], Float[Tensor, "batch n"], Float[Tensor, "batch n dimensions"]]
]:
    """Yield the pixels that each point reads.

    Each is an index into the flattened canvas, a weight, and the derivatives of the weight with
    respect to x, y (and z).
    """
    coordinates = zip(points.unbind(-1), tuple(size)[::-1], strict=True)  # x first
    axes = [_axis(x, n, kernel, align_corners) for x, n in coordinates]
    for samples in product(*axes):
        indices, weights, slopes = zip(*samples, strict=True)
        flat = torch.zeros_like(indices[0])
        for index, n in zip(indices[::-1], size, strict=True):  # the slowest axis first
            flat = flat * n + index
        gradient = [
            math.prod([slopes[i] if i == axis else weights[i] for i in range(len(size))])
            for axis in range(len(size))
        ]
        yield flat, math.prod(weights), torch.stack(gradient, dim=-1)


def _axis(
    x: Float[Tensor, "batch n"], n: int, kernel: Kernel, align_corners: bool
) -> list[tuple[Int[Tensor, "batch n"], Float[Tensor, "batch n"], Float[Tensor, "batch n"]]]:
    """Return the pixels that each point reads along one axis.

    Each is an index, a weight, and the derivative of the weight with respect to `x`.
    """
    pixel = (x + 1) * ((n - 1) / 2) if align_corners else ((x + 1) * n - 1) / 2
    scale = (n - 1) / 2 if align_corners else n / 2
    first = (pixel.round() if kernel == "nearest" else pixel.floor()).detach()
    f = pixel - first
    if kernel == "nearest":
        terms = [(0, torch.ones_like(f), torch.zeros_like(f))]
    elif kernel == "bilinear":
        terms = [(0, 1 - f, -torch.ones_like(f)), (1, f, torch.ones_like(f))]
    else:
        terms = [(step, *_keys(f - step)) for step in (-1, 0, 1, 2)]
    samples = []
    for step, weight, slope in terms:
        index = first.long() + step
        inside = ((index >= 0) & (index < n)).to(f.dtype)
        samples.append((index.clamp(0, n - 1), weight * inside, slope * inside * scale))
    return samples


def _keys(d: Float[Tensor, "batch n"]) -> tuple[Float[Tensor, "batch n"], Float[Tensor, "batch n"]]:
    """Return Keys' kernel and its slope at distance `d`."""
    a, r = _KEYS, d.abs()
    near, far = ((a + 2) * r - (a + 3)) * r * r + 1, ((a * r - 5 * a) * r + 8 * a) * r - 4 * a
    near_slope, far_slope = (3 * (a + 2) * r - 2 * (a + 3)) * r, (3 * a * r - 10 * a) * r + 8 * a
    return torch.where(r <= 1, near, far), torch.where(r <= 1, near_slope, far_slope) * d.sign()

"""Sampling with a deterministic gradient.

On a GPU `grid_sample`'s backward adds into the image with atomics, in an order that changes from
run to run, and under `torch.use_deterministic_algorithms` it raises, even if nobody needs the
image's gradient. `gather_sample` is as fast, by the same `grid_sample`; its backward gathers each
point's neighbours instead, and scatters into the image, where that is needed, by operations for
which PyTorch has a deterministic implementation.

Convention:
    Zeros are read out of bounds. `align_corners` is `grid_sample`'s: -1 and 1 are the canvas's
    border, as everywhere here (False), or its outermost samples (True), for canvases whose samples
    lie on the corners of pixels.

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

Kernel = Literal["bilinear", "nearest", "bicubic"]

_KEYS = -0.75
"""The free parameter of Keys' kernel, as in PyTorch."""


def deterministic_sample(
    canvas: Float[Tensor, "batch channels *in_size"],
    grid: Float[Tensor, "batch *out_size dimensions"],
    kernel: Kernel = "bilinear",
    align_corners: bool = False,
) -> Float[Tensor, "batch channels *out_size"]:
    """Sample; deterministic if `torch.use_deterministic_algorithms` asks for it."""
    if canvas.is_cuda and torch.are_deterministic_algorithms_enabled():
        return gather_sample(canvas, grid, kernel, align_corners)
    return functional.grid_sample(canvas, grid, kernel, "zeros", align_corners=align_corners)


def gather_sample(
    canvas: Float[Tensor, "batch channels *in_size"],
    grid: Float[Tensor, "batch *out_size dimensions"],
    kernel: Kernel = "bilinear",
    align_corners: bool = False,
) -> Float[Tensor, "batch channels *out_size"]:
    """Sample with a backward that gathers.

    On any device; coordinates must be finite.
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
        """Use differentiable operations only, so that gradients have gradients."""
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
    """Yield the samples that each point reads.

    Each is an index into the flat canvas, a weight, and the weight's slopes along x, y (and z).
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
    """Return the samples each point reads along an axis.

    Each is an index, a weight, and the weight's slope in normalised units.
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

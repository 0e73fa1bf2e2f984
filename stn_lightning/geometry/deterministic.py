"""Reading a canvas at a grid with a gradient that is the same in every run.

On a GPU `grid_sample`'s backward adds into the image with atomics, in an order that changes from
run to run, and under `torch.use_deterministic_algorithms` it raises, even where nobody asked for
the image's gradient. `gather_sample` reads as fast, by the same `grid_sample`; its backward gathers
each point's neighbours instead, and scatters into the image, where that is wanted, by operations
for which PyTorch has a deterministic implementation.

Convention:
    What lies outside the canvas is zero. `corners` says where -1 and 1 are: on the canvas's border,
    the house's convention (False), or on its outermost samples (True), for canvases whose samples
    stand on the corners of pixels.

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
"""The free number of Keys' kernel, as in PyTorch."""


def deterministic_sample(
    canvas: Float[Tensor, "batch channels *in_size"],
    grid: Float[Tensor, "batch *out_size dimensions"],
    kernel: Kernel = "bilinear",
    corners: bool = False,
) -> Float[Tensor, "batch channels *out_size"]:
    """The canvas at the grid's points; deterministic on a GPU as soon as
    `torch.use_deterministic_algorithms` asks for it.
    """
    if canvas.is_cuda and torch.are_deterministic_algorithms_enabled():
        return gather_sample(canvas, grid, kernel, corners)
    return functional.grid_sample(canvas, grid, kernel, "zeros", align_corners=corners)


def gather_sample(
    canvas: Float[Tensor, "batch channels *in_size"],
    grid: Float[Tensor, "batch *out_size dimensions"],
    kernel: Kernel = "bilinear",
    corners: bool = False,
) -> Float[Tensor, "batch channels *out_size"]:
    """The canvas at the grid's points, with a backward that gathers; on any device. Coordinates
    must be finite.
    """
    result: Tensor = _Gathered.apply(canvas, grid, kernel, corners)
    return result


class _Gathered(Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(canvas: Tensor, grid: Tensor, kernel: Kernel, corners: bool) -> Tensor:
        return functional.grid_sample(canvas, grid, kernel, "zeros", align_corners=corners)

    @staticmethod
    def setup_context(
        ctx: Any,
        inputs: tuple[Tensor, Tensor, Kernel, bool],
        output: Tensor,  # noqa: ARG004
    ) -> None:
        canvas, grid, ctx.kernel, ctx.corners = inputs
        ctx.save_for_backward(canvas, grid)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        """Written in differentiable operations only, so that it can be differentiated again."""
        canvas, grid = ctx.saved_tensors
        gradient, pixels, points = (
            gradients[0].flatten(2),
            canvas.flatten(2),
            grid.flatten(1, -2),
        )  # (B, C, N), (B, C, M), (B, N, D)
        of_canvas = torch.zeros_like(pixels) if ctx.needs_input_grad[0] else None
        of_grid = torch.zeros_like(points) if ctx.needs_input_grad[1] else None
        for index, weight, slopes in _neighbours(points, canvas.shape[2:], ctx.kernel, ctx.corners):
            index = index[:, None].expand_as(gradient)  # (B, C, N)
            if of_canvas is not None:
                of_canvas = of_canvas.scatter_add(2, index, gradient * weight[:, None])
            if of_grid is not None and ctx.kernel != "nearest":
                of_grid = of_grid + (gradient * pixels.gather(2, index)).sum(1)[..., None] * slopes
        return (
            None if of_canvas is None else of_canvas.unflatten(2, canvas.shape[2:]),
            None if of_grid is None else of_grid.reshape(grid.shape),
            None,
            None,
        )


def _neighbours(
    points: Float[Tensor, "batch n dimensions"], size: Sequence[int], kernel: Kernel, corners: bool
) -> Iterator[
    tuple[Int[Tensor, "batch n"], Float[Tensor, "batch n"], Float[Tensor, "batch n dimensions"]]
]:
    """For each sample that a point reads: its place in the flat canvas, its weight, and the
    weight's slopes along x, y (and z).
    """
    axes = [
        _axis(x, n, kernel, corners)
        for x, n in zip(points.unbind(-1), tuple(size)[::-1], strict=True)
    ]  # x first
    for chosen in product(*axes):
        places, weights, slopes = zip(*chosen, strict=True)
        index = torch.zeros_like(places[0])
        for place, n in zip(places[::-1], size, strict=True):  # the slowest axis first
            index = index * n + place
        along = [
            math.prod([slopes[i] if i == axis else weights[i] for i in range(len(size))])
            for axis in range(len(size))
        ]
        yield index, math.prod(weights), torch.stack(along, dim=-1)


def _axis(
    x: Float[Tensor, "batch n"], n: int, kernel: Kernel, corners: bool
) -> list[tuple[Int[Tensor, "batch n"], Float[Tensor, "batch n"], Float[Tensor, "batch n"]]]:
    """For each sample along one axis of `n` that a point reads: its place, its weight, and the
    weight's slope in normalised units.
    """
    place = (x + 1) * ((n - 1) / 2) if corners else ((x + 1) * n - 1) / 2
    scale = (n - 1) / 2 if corners else n / 2
    first = (place.round() if kernel == "nearest" else place.floor()).detach()
    f = place - first
    if kernel == "nearest":
        terms = [(0, torch.ones_like(f), torch.zeros_like(f))]
    elif kernel == "bilinear":
        terms = [(0, 1 - f, -torch.ones_like(f)), (1, f, torch.ones_like(f))]
    else:
        terms = [(step, *_keys(f - step)) for step in (-1, 0, 1, 2)]
    samples = []
    for step, weight, slope in terms:
        at = first.long() + step
        inside = ((at >= 0) & (at < n)).to(f.dtype)
        samples.append((at.clamp(0, n - 1), weight * inside, slope * inside * scale))
    return samples


def _keys(d: Float[Tensor, "batch n"]) -> tuple[Float[Tensor, "batch n"], Float[Tensor, "batch n"]]:
    """Keys' kernel at a distance of `d` samples, and its slope."""
    a, r = _KEYS, d.abs()
    near, far = ((a + 2) * r - (a + 3)) * r * r + 1, ((a * r - 5 * a) * r + 8 * a) * r - 4 * a
    near_slope, far_slope = (3 * (a + 2) * r - 2 * (a + 3)) * r, (3 * a * r - 10 * a) * r + 8 * a
    return torch.where(r <= 1, near, far), torch.where(r <= 1, near_slope, far_slope) * d.sign()

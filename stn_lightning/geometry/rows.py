"""Reading feature maps whose channels lie side by side in memory, on a processor.

`grid_sample` on a processor reads plane by plane: for many channels in the memory format
channels_last it jumps through memory for every number. Here each pixel is one row of all its
channels: a point is the weighted sum of four rows, which is what `embedding_bag` is made for, and
the gradient of a pixel is the weighted sum of the points that read it, which is the same once they
are put in order.

Convention:
    As everywhere: half-pixel, zeros outside.

Reference:
    Jaderberg et al. 2015, equations 5 (bilinear), 6 and 7 (its gradients).
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import Function, once_differentiable
from torch.nn import functional

CHANNELS = 48
"""From so many on, reading rows is faster than reading planes."""


def lies_in_rows(canvas: Float[Tensor, "batch channels *size"]) -> bool:
    """Whether `bilinear` reads this canvas faster than `grid_sample` does. Graphs and torch.func
    keep the operation that they know.
    """
    return (
        canvas.dim() == 4
        and canvas.shape[1] >= CHANNELS
        and canvas.device.type == "cpu"
        and not torch.compiler.is_compiling()
        and len(canvas)
        # a process may be left without a picture in the last batch; after the line above, as `len`
        # makes a size fixed
        > 0
        and not torch._C._are_functorch_transforms_active()
        and canvas.is_contiguous(memory_format=torch.channels_last)
    )


def bilinear(
    canvas: Float[Tensor, "batch channels h_in w_in"], grid: Float[Tensor, "batch height width 2"]
) -> Float[Tensor, "batch channels height width"]:
    """The canvas at the grid's points, in channels_last."""
    result: Tensor = _Rows.apply(canvas, grid)
    return result


class _Rows(Function):
    @staticmethod
    def forward(ctx: Any, canvas: Tensor, grid: Tensor) -> Tensor:
        index, down, right = _neighbours(grid, canvas.shape[2:])
        weight = torch.stack([y * x for y in down.weight for x in right.weight], 1)  # (B*H*W, 4)
        ctx.save_for_backward(canvas, index, weight, *down, *right)
        read = functional.embedding_bag(
            index, _rows(canvas), per_sample_weights=weight, mode="sum"
        )  # (B*H*W, C)
        return read.view(*grid.shape[:-1], -1).movedim(-1, 1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None]:
        canvas, index, weight, *along = ctx.saved_tensors
        down, right = _Axis(*along[:3]), _Axis(*along[3:])
        rows, gradient = _rows(canvas), _rows(gradients[0])
        of_canvas = of_grid = None
        if ctx.needs_input_grad[0]:
            of_canvas = (
                _spread(gradient, index, weight, len(rows))
                .view(canvas.movedim(1, -1).shape)
                .movedim(-1, 1)
            )
        if ctx.needs_input_grad[1]:
            # PyTorch's own gradient of the weights, which needs no copy of all rows that are read
            with torch.enable_grad():
                learnt = weight.detach().requires_grad_()
                read = functional.embedding_bag(
                    index, rows.detach(), per_sample_weights=learnt, mode="sum"
                )
            (of_weight,) = torch.autograd.grad(read, learnt, gradient)  # (B*H*W, 4)
            each = of_weight.T.reshape(2, 2, -1)  # down, right
            of_x = ((each * down.weight[:, None]).sum(0) * right.slope).sum(0)
            of_y = ((each * right.weight).sum(1) * down.slope).sum(0)
            batch, _, *size = gradients[0].shape
            of_grid = torch.stack([of_x, of_y]).view(2, batch, *size).movedim(0, -1)
        return of_canvas, of_grid


class _Axis(NamedTuple):
    """The two pixels that each point reads along one axis."""

    place: Int[Tensor, "2 points"]
    weight: Float[Tensor, "2 points"]
    slope: Float[Tensor, "2 points"]
    """Of the weight, in normalised units."""


def _rows(image: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "pixels channels"]:
    return image.movedim(1, -1).reshape(-1, image.shape[1])


def _neighbours(
    grid: Float[Tensor, "batch height width 2"], size: Sequence[int]
) -> tuple[Int[Tensor, "points 4"], _Axis, _Axis]:
    """The rows that each point reads, and the axes down and right whose weights' products are
    theirs.
    """
    right, down = (
        _axis(at.reshape(-1), n) for at, n in zip(grid.unbind(-1), size[::-1], strict=True)
    )
    first = torch.arange(len(grid), device=grid.device, dtype=torch.int32).mul_(size[0] * size[1])
    line = (down.place * size[1]).view(2, len(grid), -1).add_(first[:, None]).view(2, -1)
    return torch.stack([y + x for y in line for x in right.place], 1), down, right


def _axis(where: Float[Tensor, " points"], n: int) -> _Axis:
    place = (
        (where + 1).mul_(n / 2).sub_(0.5)
    )  # exact where the point is a pixel's centre and n a power of two
    first = place.floor()
    after = place - first
    pixel = torch.stack([first, first + 1]).int()
    inside = (pixel >= 0).logical_and_(pixel < n).to(where.dtype)
    slope = inside * inside.new_tensor([[-n / 2], [n / 2]])
    return _Axis(pixel.clamp_(0, n - 1), torch.stack([1 - after, after]).mul_(inside), slope)


def _spread(
    gradient: Float[Tensor, "points channels"],
    index: Int[Tensor, "points 4"],
    weight: Float[Tensor, "points 4"],
    rows: int,
) -> Float[Tensor, "rows channels"]:
    """What all points have read of each row, put back into it: `gradient` summed by the order of
    rows.
    """
    flat = index.flatten()
    order = flat.argsort(stable=True)
    count = flat.bincount(minlength=rows)
    first = count.cumsum(0) - count
    return functional.embedding_bag(
        order // 4, gradient, first, per_sample_weights=weight.flatten()[order], mode="sum"
    )

"""Convolutions of pictures of one channel, whose gradients a processor computes as two matrix
products.

PyTorch 2.14's own gradient of the weights of such a layer, the first of every network for digits,
runs at a tenth of a processor's speed: it took a third of a training step of the paper's CNN. All
that it needs is a product of the picture's windows with the output's gradient.
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd import Function
from torch.nn import functional

Pair = tuple[int, int]


class Convolution(nn.Conv2d):
    """PyTorch's convolution; its gradients are quick for pictures of one channel, too."""

    def forward(
        self,
        input: Float[Tensor, "*batch channels height width"],  # noqa: A002  # torch's name
    ) -> Float[Tensor, "*batch filters rows columns"]:
        if not self._single(input):
            return super().forward(input)
        device = input.device.type
        weight, bias = self.weight, self.bias
        if torch.is_autocast_enabled(device):  # which does not look into a function of one's own
            dtype = torch.get_autocast_dtype(device)
            input, weight, bias = (  # noqa: A001
                input.to(dtype),
                weight.to(dtype),
                None if bias is None else bias.to(dtype),
            )
        output: Tensor = _SingleChannel.apply(input, weight, bias, self.stride, self.padding)
        return output

    def _single(self, image: Tensor) -> bool:
        """Whether it is what `_SingleChannel` is for; graphs keep the plain operation, which other
        runtimes know.
        """
        plain = (
            self.groups == 1
            and self.dilation == (1, 1)
            and self.padding_mode == "zeros"
            and not isinstance(self.padding, str)
        )
        return (
            plain
            and self.in_channels == 1
            and image.dim() == 4
            and image.device.type == "cpu"
            and torch.is_grad_enabled()
            and not torch.compiler.is_compiling()
        )


class _SingleChannel(Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(
        image: Tensor, weight: Tensor, bias: Tensor | None, stride: Pair, padding: Pair
    ) -> Tensor:
        return functional.conv2d(image, weight, bias, stride, padding)

    @staticmethod
    def setup_context(
        ctx: Any,
        inputs: tuple[Tensor, Tensor, Tensor | None, Pair, Pair],
        output: Tensor,  # noqa: ARG004
    ) -> None:
        image, weight, _, ctx.stride, ctx.padding = inputs
        ctx.save_for_backward(image, weight)

    @staticmethod
    def backward(
        ctx: Any, *gradients: Tensor
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None, None, None]:
        """Written in differentiable operations only, so that it can be differentiated again."""
        image, weight = ctx.saved_tensors
        gradient, size = gradients[0], weight.shape[2:]
        of_image = of_weight = None
        if ctx.needs_input_grad[0]:
            spread = weight.flatten(1).T @ gradient.flatten(2)  # (B, pixels of a window, windows)
            of_image = functional.fold(spread, image.shape[2:], size, 1, ctx.padding, ctx.stride)
        if ctx.needs_input_grad[1]:
            (down, right), (rows, columns) = ctx.padding, ctx.stride
            padded = functional.pad(image[:, 0], (right, right, down, down))
            windows = padded.unfold(1, size[0], rows).unfold(
                2, size[1], columns
            )  # (B, rows, columns, *size)
            every = windows.permute(3, 4, 0, 1, 2).reshape(
                size.numel(), -1
            )  # (pixels of a window, B*windows)
            of_weight = (every @ gradient.movedim(1, -1).reshape(-1, len(weight))).T.reshape(
                weight.shape
            )
        of_bias = gradient.sum((0, 2, 3)) if ctx.needs_input_grad[2] else None
        return of_image, of_weight, of_bias, None, None

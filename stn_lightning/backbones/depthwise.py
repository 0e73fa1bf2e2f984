"""Depthwise convolutions with float32 gradients under bfloat16 autocast.

On a CPU PyTorch 2.14 takes five times as long for the gradient of a depthwise convolution in
bfloat16 as in float32: 72 % of a training step of EfficientNet-Lite0 (docs/log.md).
"""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from stn_lightning.shapes import Images


class DepthwiseConv2d(nn.Conv2d):
    """A depthwise convolution, faster under bfloat16 autocast.

    Otherwise it is `torch.nn.Conv2d`.
    """

    pads_same = False
    """Whether the input is padded as by TensorFlow's "same" (timm's Conv2dSame)."""

    def forward(
        self,
        input: Images,  # noqa: A002  # torch's name
    ) -> Float[Tensor, "batch filters rows columns"]:
        padding = self.padding
        assert not isinstance(padding, str)
        if self.pads_same:
            input = functional.pad(input, self._same(input.shape[2:]))  # noqa: A001
        slow = input.device.type == "cpu" and torch.is_autocast_enabled("cpu")
        if not (slow and torch.is_grad_enabled()) or torch.compiler.is_compiling():
            return functional.conv2d(
                input, self.weight, self.bias, self.stride, padding, self.dilation, self.groups
            )
        dtype = torch.get_autocast_dtype("cpu")
        with torch.autocast("cpu", enabled=False):
            output: Tensor = _Float32Gradient.apply(
                input.to(dtype), self.weight, self.stride, padding, self.dilation, self.groups
            )
            return output if self.bias is None else output + self.bias.to(dtype)[:, None, None]

    def _same(self, size: Sequence[int]) -> list[int]:
        """Return the padding: left, right, top, bottom."""
        pads: list[int] = []
        for length, kernel, stride, dilation in zip(
            size, self.kernel_size, self.stride, self.dilation, strict=True
        ):
            total = (-(-length // stride) - 1) * stride + (kernel - 1) * dilation + 1 - length
            pads = [max(total, 0) // 2, max(total, 0) - max(total, 0) // 2, *pads]
        return pads


class _Same(DepthwiseConv2d):
    pads_same = True


class _Float32Gradient(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(image: Tensor, weight: Tensor, *options: Any) -> Tensor:
        stride, padding, dilation, groups = options
        return functional.conv2d(
            image, weight.to(image.dtype), None, stride, padding, dilation, groups
        )

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Tensor) -> None:  # noqa: ARG004  # torch's
        image, weight, *ctx.options = inputs
        ctx.save_for_backward(image, weight)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        image, weight = ctx.saved_tensors
        stride, padding, dilation, groups = ctx.options
        d_image, d_weight, _ = torch.ops.aten.convolution_backward(
            gradient.float(), image.float(), weight.float(), None, stride, padding, dilation,
            False, (0, 0), groups, (ctx.needs_input_grad[0], ctx.needs_input_grad[1], False),
        )  # fmt: skip
        d_image = None if d_image is None else d_image.to(image.dtype)
        return d_image, d_weight, None, None, None, None


def speed_up_depthwise(network: nn.Module) -> None:
    """Change the class of depthwise convolutions to `DepthwiseConv2d`."""
    kinds = {"Conv2d": DepthwiseConv2d, "Conv2dSame": _Same}
    for module in network.modules():
        kind = kinds.get(type(module).__name__)
        if kind is None or not isinstance(module, nn.Conv2d):
            continue
        depthwise = 1 < module.groups == module.in_channels and module.padding_mode == "zeros"
        if depthwise and not isinstance(module.padding, str):
            module.__class__ = kind

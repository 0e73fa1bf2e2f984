"""Lazy layers, and a faster convolution of few channels.

A lazy layer takes its input size from the first batch, so configurations need no image size.
PyTorch's warning that lazy layers are a new feature is suppressed here.
"""

import itertools
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.lazy import LazyModuleMixin


def linear(out_features: int, initialise: Callable[[nn.Linear], None] | None = None) -> nn.Linear:
    """Build a fully connected layer.

    Args:
        out_features: width of the layer.
        initialise: function that sets the weights as soon as the input size is known. It is not
            called if the weights come from a checkpoint.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Lazy modules are a new feature", UserWarning)
        if initialise is None:
            return nn.LazyLinear(out_features)
        layer = _InitialisedLinear(out_features)
    layer.initialise = initialise
    return layer


def fully_connected(
    widths: Sequence[int], initialise: Callable[[nn.Linear], None] | None = None
) -> nn.ModuleList:
    """Build fully connected layers; the first is lazy.

    Args:
        widths: width of each layer.
        initialise: function that sets the first layer's weights; see `linear`.

    Raises:
        ValueError: there is no layer, or one without units.
    """
    if not widths or min(widths) < 1:
        raise ValueError(
            f"widths {list(widths)} of fully connected layers; give 1 unit or more each"
        )
    others = [nn.Linear(a, b) for a, b in itertools.pairwise(widths)]
    return nn.ModuleList([linear(widths[0], initialise), *others])


def initialise_for_relu(layer: nn.Module) -> None:
    """Initialise for ReLUs (He et al. 2015), with zero biases.

    Activations then have the same variance in every layer, however deep the network is.
    """
    assert isinstance(layer.weight, Tensor)
    assert isinstance(layer.bias, Tensor)
    nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
    nn.init.zeros_(layer.bias)


def conv2d(
    out_channels: int,
    kernel_size: int,
    stride: int = 1,
    padding: int = 0,
    bias: bool = True,
    initialise: Callable[[nn.Module], None] | None = None,
) -> nn.Conv2d:
    """Build a convolution that learns its input channels.

    Args:
        out_channels: number of filters.
        kernel_size: kernel size, in pixels.
        stride: stride, in pixels.
        padding: padding on each side, in pixels.
        bias: whether each filter has a bias.
        initialise: see `linear`.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Lazy modules are a new feature", UserWarning)
        if initialise is None:
            return _LazyConv2d(out_channels, kernel_size, stride, padding, bias=bias)
        layer = _InitialisedConv2d(out_channels, kernel_size, stride, padding, bias=bias)
    layer.initialise = initialise
    return layer


def conv3d(out_channels: int, kernel_size: int) -> nn.Conv3d:
    """Build a 3D convolution that learns its input channels."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Lazy modules are a new feature", UserWarning)
        return nn.LazyConv3d(out_channels, kernel_size)


def reduce_image(
    image: Float[Tensor, "batch channels height width"], factor: int
) -> Float[Tensor, "batch channels rows columns"]:
    """Average over squares of `factor` x `factor` pixels.

    Raises:
        ValueError: `factor` is below 1.
    """
    if factor < 1:
        raise ValueError(f"shrink {factor} is a factor that reduces the image; give 1 or more")
    return functional.avg_pool2d(image, factor) if factor > 1 else image


class Conv2d(nn.Conv2d):
    """PyTorch's convolution, faster for few channels on a CPU.

    On a CPU PyTorch computes the gradient of an image with one or two channels slowly. If that
    gradient is needed, as behind a spatial transformer, the pixels under a row of the kernel are
    first copied into channels, and then convolved with a kernel one column wide. The result is the
    same sum in another order.
    """

    def forward(
        self,
        input: Float[Tensor, "*batch channels height width"],  # noqa: A002  # torch's name
    ) -> Float[Tensor, "*batch filters rows columns"]:
        if not self._gathers_windows(input):
            return super().forward(input)
        assert not isinstance(self.padding, str)
        (rows, columns), (down, right) = self.kernel_size, self.padding
        windows = functional.unfold(input, (1, columns), 1, (0, right), (1, self.stride[1]))
        image = windows.unflatten(2, (input.shape[2], -1))  # (B, C*columns, height, W)
        image = image.movedim(1, -1).contiguous().movedim(-1, 1)  # channels_last, also in vmap
        weight = self.weight.transpose(2, 3).reshape(self.out_channels, -1, rows, 1)
        return functional.conv2d(image, weight, self.bias, (self.stride[0], 1), (down, 0))

    def _gathers_windows(self, image: Tensor) -> bool:
        """Return True if copying to channels is faster.

        By the measurement in docs/log.md PyTorch's own convolution is faster if the image needs no
        gradient, or has at least half as many channels as the kernel has columns. Traced and
        compiled graphs contain the plain convolution, which other runtimes support.
        """
        return (
            image.requires_grad
            and torch.is_grad_enabled()
            and image.device.type == "cpu"
            and image.dim() == 4
            and not torch.compiler.is_compiling()
            and self.groups == 1
            and self.kernel_size[1] > 2 * self.weight.shape[1]  # in_channels is 0 after loading
            and self.dilation == (1, 1)
            and self.padding_mode == "zeros"
            and not isinstance(self.padding, str)
        )


class _LazyConv2d(nn.LazyConv2d, Conv2d):  # type: ignore[misc]  # weights may be uninitialised
    cls_to_become = Conv2d  # PyTorch changes the class after the first batch


class _Initialised(LazyModuleMixin):
    # A checkpoint that is loaded first keeps its weights.
    initialise: Callable[[Any], None]

    def initialize_parameters(self, input: Tensor) -> None:  # noqa: A002  # torch's name
        fresh = self.has_uninitialized_params()  # type: ignore[misc]  # for lazy layers only
        super().initialize_parameters(input)  # type: ignore[misc]  # for lazy layers only
        if fresh:
            self.initialise(self)
        del self.initialise


class _InitialisedLinear(_Initialised, nn.LazyLinear):
    pass


class _InitialisedConv2d(_Initialised, _LazyConv2d):  # type: ignore[misc]  # weights may be uninitialised
    pass

"""Layers that learn their input's size from the first batch, so that a network file needs no
picture size.

PyTorch warns at each construction that lazy layers may change one day; that is no news to a user of
this package and is kept from them.
"""

import warnings
from collections.abc import Callable

from torch import Tensor, nn

from stn_lightning.convolution import Convolution


def linear(out_features: int, initialise: Callable[[nn.Linear], None] | None = None) -> nn.Linear:
    """A fully connected layer; `initialise` is called once its size is known, unless it comes from
    a checkpoint.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Lazy modules are a new feature", UserWarning)
        return (
            nn.LazyLinear(out_features)
            if initialise is None
            else _InitialisedLinear(out_features, initialise)
        )


def initialise_for_relu(layer: nn.Module) -> None:
    """Weights with which a rectifier keeps the size of its signals, however deep the network (He et
    al. 2015); biases of 0.
    """
    assert isinstance(layer.weight, Tensor)
    assert isinstance(layer.bias, Tensor)
    nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
    nn.init.zeros_(layer.bias)


def conv2d(out_channels: int, kernel_size: int, stride: int = 1, padding: int = 0) -> nn.Conv2d:
    """A convolution that learns its number of input channels."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Lazy modules are a new feature", UserWarning)
        return _LazyConvolution(out_channels, kernel_size, stride, padding)


def conv3d(out_channels: int, kernel_size: int) -> nn.Conv3d:
    """A convolution in space that learns its number of input channels."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Lazy modules are a new feature", UserWarning)
        return nn.LazyConv3d(out_channels, kernel_size)


class _LazyConvolution(nn.LazyConv2d):
    cls_to_become = Convolution


class _InitialisedLinear(nn.LazyLinear):
    def __init__(self, out_features: int, initialise: Callable[[nn.Linear], None]) -> None:
        super().__init__(out_features)
        self.initialise = initialise

    def initialize_parameters(self, input: Tensor) -> None:  # noqa: A002  # torch's name
        fresh = self.has_uninitialized_params()  # False after loading a checkpoint
        super().initialize_parameters(input)
        if fresh:
            self.initialise(self)
        del self.initialise

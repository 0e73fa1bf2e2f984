"""Layers that learn their input's size from the first batch, so that a network file needs no picture size.

PyTorch warns at each construction that lazy layers may change one day; that is no news to a user of this package and is kept from them.
"""

import warnings

from torch import Tensor, nn


def linear(out_features: int, *, zero: bool = False) -> nn.Linear:
    """A fully connected layer; with `zero` its weights and biases start at 0."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Lazy modules are a new feature", UserWarning)
        return _ZeroLinear(out_features) if zero else nn.LazyLinear(out_features)


def conv2d(out_channels: int, kernel_size: int, stride: int = 1, padding: int = 0) -> nn.Conv2d:
    """A convolution that learns its number of input channels."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Lazy modules are a new feature", UserWarning)
        return nn.LazyConv2d(out_channels, kernel_size, stride, padding)


class _ZeroLinear(nn.LazyLinear):
    def initialize_parameters(self, input: Tensor) -> None:  # noqa: A002  # torch's name
        fresh = self.has_uninitialized_params()  # False after loading a checkpoint
        super().initialize_parameters(input)
        if fresh:
            nn.init.zeros_(self.weight)
            nn.init.zeros_(self.bias)

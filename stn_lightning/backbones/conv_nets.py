"""Small convolutional feature extractors to train from scratch."""

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from stn_lightning import layers
from stn_lightning.shapes import Images


class SmallConvNet(nn.Module):
    """Convolutions, each with batch normalisation and ReLU.

    Images from 0 to 1 are mapped to -1 to 1 first. Convolutions are padded by half their kernels,
    so a stride of 1 keeps the size.

    Args:
        num_filters: filters of each convolution.
        strides: stride of each, in pixels, or one for all.
        kernel_sizes: odd kernel size of each, in pixels, or one for all.
        bias: whether convolutions have a bias. It changes nothing, as batch normalisation follows.

    Raises:
        ValueError: the numbers of filters, strides and kernels differ, or a kernel size is even.

    Examples:
        >>> import torch
        >>> network = SmallConvNet((32, 64), strides=(2, 1), kernel_sizes=(5, 3))
        >>> network(torch.rand(2, 1, 28, 28)).shape
        torch.Size([2, 64, 14, 14])
    """

    def __init__(
        self,
        num_filters: Sequence[int] = (32, 64, 128, 128),
        strides: int | Sequence[int] = 2,
        kernel_sizes: int | Sequence[int] = 3,
        bias: bool = True,
    ) -> None:
        super().__init__()
        sequence: list[nn.Module] = []
        for conv in _convolutions(num_filters, kernel_sizes, strides, bias):
            sequence += [conv, nn.BatchNorm2d(conv.out_channels), nn.ReLU()]
        self.layers = nn.Sequential(*sequence)

    def forward(self, image: Images) -> Float[Tensor, "batch features rows columns"]:
        features: Tensor = self.layers(image * 2 - 1)
        return features


class PlainConvNet(nn.Module):
    """Convolutions with ReLUs between them.

    No ReLU follows the last one: in experiments heat maps of non-negative features became zero
    after a few large steps.

    Args:
        num_filters: filters of each convolution.
        kernel_sizes: odd kernel size of each, in pixels, or one for all.
        strides: stride of each, in pixels, or one for all.

    Raises:
        ValueError: the numbers of filters, strides and kernels differ, or a kernel size is even.

    Examples:
        >>> import torch
        >>> PlainConvNet()(torch.rand(2, 1, 84, 84)).shape
        torch.Size([2, 8, 21, 21])
    """

    def __init__(
        self,
        num_filters: Sequence[int] = (8, 8),
        kernel_sizes: int | Sequence[int] = (9, 5),
        strides: int | Sequence[int] = (4, 1),
    ) -> None:
        super().__init__()
        self.layers = nn.ModuleList(_convolutions(num_filters, kernel_sizes, strides, bias=True))

    def forward(self, image: Images) -> Float[Tensor, "batch features rows columns"]:
        first, *rest = self.layers
        features: Tensor = first(image)
        for layer in rest:
            features = layer(functional.relu(features))
        return features


def _convolutions(
    num_filters: Sequence[int],
    kernel_sizes: int | Sequence[int],
    strides: int | Sequence[int],
    bias: bool,
) -> list[nn.Conv2d]:
    """Build padded convolutions; the first one is lazy."""
    n = len(num_filters)
    kernels = [kernel_sizes] * n if isinstance(kernel_sizes, int) else list(kernel_sizes)
    steps = [strides] * n if isinstance(strides, int) else list(strides)
    if not n == len(kernels) == len(steps):
        raise ValueError(
            f"{n} num_filters, {len(kernels)} kernel_sizes and {len(steps)} strides; "
            "give one for each convolution"
        )
    if even := [kernel for kernel in kernels if kernel % 2 == 0]:
        raise ValueError(f"kernel size {even[0]} is even; give odd ones, which have a middle")
    convolutions = [layers.conv2d(num_filters[0], kernels[0], steps[0], kernels[0] // 2, bias)]
    for i in range(1, n):
        before, kernel = num_filters[i - 1], kernels[i]
        convolutions.append(
            nn.Conv2d(before, num_filters[i], kernel, steps[i], kernel // 2, bias=bias)
        )
    return convolutions

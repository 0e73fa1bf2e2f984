"""The paper's two classifiers for digits, at any input size, and a trunk that looks for digits.

Reference:
    Jaderberg et al. 2015, section 4.1 and appendix A.4.
"""

import itertools
from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from stn_lightning import layers


class FCN(nn.Module):
    """Two hidden fully connected layers and a classifier.

    Args:
        hidden_sizes: width of each hidden layer; the paper has 128 to 256.
        num_classes: how many.
    """

    def __init__(self, hidden_sizes: Sequence[int], num_classes: int = 10) -> None:
        super().__init__()
        widths = [*hidden_sizes, num_classes]
        self.layers = nn.ModuleList(
            [layers.linear(widths[0]), *(nn.Linear(a, b) for a, b in itertools.pairwise(widths))]
        )

    def forward(self, image: Float[Tensor, "batch ..."]) -> Float[Tensor, "batch classes"]:
        *hidden, classifier = self.layers
        features = image.flatten(1)
        for layer in hidden:
            features = functional.relu(layer(features))
        logits: Tensor = classifier(features)
        return logits


class CNN(nn.Module):
    """Convolution 9 x 9, pooling, convolution 7 x 7, pooling, classifier; no padding.

    Pooling keeps the odd last row and column (ceil mode): a 42 x 42 picture halved to 21 x 21, as
    the paper does for RTS, would not survive the second pooling otherwise.

    Args:
        num_filters: of each convolution; the paper has 32 to 64.
        num_classes: how many.
    """

    def __init__(self, num_filters: int, num_classes: int = 10) -> None:
        super().__init__()
        self.conv1 = layers.conv2d(num_filters, 9)
        self.conv2 = nn.Conv2d(num_filters, num_filters, 7)
        self.classifier = layers.linear(num_classes)

    def forward(
        self, image: Float[Tensor, "batch channels height width"]
    ) -> Float[Tensor, "batch classes"]:
        return self.activations(image)[-1]

    def activations(self, image: Float[Tensor, "batch channels height width"]) -> list[Tensor]:
        """Of the two pooled convolutions and the classifier."""
        first = functional.relu(
            functional.max_pool2d(self.conv1(image), 2, ceil_mode=True)
        )  # rectifies a quarter, to the same values
        second = functional.relu(functional.max_pool2d(self.conv2(first), 2, ceil_mode=True))
        return [first, second, self.classifier(second.flatten(1))]


class PlainConvNet(nn.Module):
    """Convolutions with rectifiers between them and nothing else: an image of any number of
    channels to a feature map.

    None follows the last one: heat maps of features that can only be positive die within a few
    large steps.

    Args:
        num_filters: of each convolution.
        kernel_sizes: of each, in pixels; odd, as they are padded to keep the middle in the middle.
        strides: of each, in pixels.

    Raises:
        ValueError: where there are not as many kernels and strides as filters.
    """

    def __init__(
        self,
        num_filters: Sequence[int] = (8, 8),
        kernel_sizes: Sequence[int] = (9, 5),
        strides: Sequence[int] = (4, 1),
    ) -> None:
        super().__init__()
        if not len(num_filters) == len(kernel_sizes) == len(strides):
            raise ValueError(
                f"{len(num_filters)} filters, {len(kernel_sizes)} kernel_sizes and {len(strides)} strides; give each layer one"
            )
        first, *rest = zip(num_filters, kernel_sizes, strides, strict=True)
        convolutions = [layers.conv2d(*first, padding=first[1] // 2)]
        convolutions += [
            nn.Conv2d(before, n, k, s, k // 2)
            for before, (n, k, s) in zip(num_filters, rest, strict=False)
        ]
        self.layers = nn.ModuleList(convolutions)

    def forward(
        self, image: Float[Tensor, "batch channels height width"]
    ) -> Float[Tensor, "batch features rows columns"]:
        first, *rest = self.layers
        features: Tensor = first(image)
        for layer in rest:
            features = layer(functional.relu(features))
        return features

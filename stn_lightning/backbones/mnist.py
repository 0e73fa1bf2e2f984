"""The paper's two classifiers for digits, at any input size.

Reference:
    Jaderberg et al. 2015, section 4.1 and appendix A.4.
"""

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional

from stn_lightning import layers
from stn_lightning.shapes import Batched, Images, Logits


class FCN(nn.Module):
    """Fully connected layers with ReLUs, and a classifier.

    Args:
        hidden_sizes: width of each hidden layer; the paper has two of 128 to 256.
        num_classes: number of classes.

    Examples:
        >>> import torch
        >>> FCN([128, 128])(torch.rand(2, 1, 28, 28)).shape
        torch.Size([2, 10])
    """

    def __init__(self, hidden_sizes: Sequence[int], num_classes: int = 10) -> None:
        super().__init__()
        self.layers = layers.fully_connected([*hidden_sizes, num_classes])

    def forward(self, image: Batched) -> Logits:
        *hidden, classifier = self.layers
        features = image.flatten(1)
        for layer in hidden:
            features = functional.relu(layer(features))
        logits: Tensor = classifier(features)
        return logits


class CNN(nn.Module):
    """Two convolutions, each with pooling, and a classifier.

    The convolutions are 9 x 9 and 7 x 7, without padding. Pooling keeps an odd last row and column
    (ceil mode). Otherwise an image of 21 x 21 pixels, to which the paper's transformer reduces RTS,
    would have no pixel left after the second pooling.

    Args:
        num_filters: filters of each convolution; the paper has 32 to 64.
        num_classes: number of classes.
        batch_norm: whether batch normalisation follows each convolution and replaces its bias; the
            paper has none.
        dropout: dropout rate before the classifier; the paper's is 0.

    Examples:
        >>> import torch
        >>> CNN(32)(torch.rand(2, 1, 28, 28)).shape
        torch.Size([2, 10])
    """

    def __init__(
        self,
        num_filters: int,
        num_classes: int = 10,
        batch_norm: bool = False,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.conv1 = layers.conv2d(num_filters, 9, bias=not batch_norm)
        self.conv2 = nn.Conv2d(num_filters, num_filters, 7, bias=not batch_norm)
        self.classifier = layers.linear(num_classes)
        self.norms = nn.ModuleList(
            nn.BatchNorm2d(num_filters) if batch_norm else nn.Identity() for _ in range(2)
        )
        self.dropout = nn.Dropout(dropout)

    def forward(self, image: Images) -> Logits:
        return self.activations(image)[-1]

    def activations(self, image: Images) -> list[Tensor]:
        """Return the two pooled convolutions and the classifier's logits."""
        outputs, features = [], image
        for conv, norm in zip((self.conv1, self.conv2), self.norms, strict=True):
            pooled = functional.max_pool2d(norm(conv(features)), 2, ceil_mode=True)
            features = functional.relu(pooled)  # after pooling: the same result, faster
            outputs.append(features)
        return [*outputs, self.classifier(self.dropout(features.flatten(1)))]

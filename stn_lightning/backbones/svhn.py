"""The paper's classifier for house numbers of five digits.

There may be transformers between its layers. Convolutions are padded, and pooling halves the size.
So a point has the same normalised coordinates in the image and in all feature maps.

Reference:
    Jaderberg et al. 2015, section 4.2 and appendix A.5; Finnveden et al. 2020, "Understanding when
    spatial transformer networks do not support invariance, and what to do about it"
    (`SharedLayersCNN`).
"""

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from stn_lightning import layers

FILTERS = (48, 64, 128, 160, 192, 192, 192, 192)
"""Filters of the paper's eight 5 x 5 convolutions; pooling follows the first, third, ..."""
HIDDEN_SIZES = (3072, 3072, 3072)
"""Width of the paper's fully connected layers."""


class MultiDigitCNN(nn.Module):
    """Eight convolutions, three hidden layers, a classifier of each digit.

    The first fully connected layer gets 4 x 4 pixels of an image of 64 px, and 8 x 8 of one of 128
    px. The paper does not say how its network for 128 px differs; here nothing else does (?).

    Args:
        width: factor of the width of every layer, relative to the paper's.
        transformers: transformers before the first, second, ... convolution; the paper's ST-CNN
            Multi has four.
        dropout: dropout rate after every layer but the first; the paper's is 0.5.
        num_digits: largest number of digits.
        num_classes: classes of each position: the ten digits and "no digit here".

    Raises:
        ValueError: there are more transformers than convolutions, or `width` leaves a layer without
            filters.

    Examples:
        >>> import torch
        >>> MultiDigitCNN(width=0.1)(torch.rand(2, 3, 64, 64)).shape
        torch.Size([2, 5, 11])
    """

    def __init__(
        self,
        width: float = 1.0,
        transformers: list[nn.Module] | None = None,
        dropout: float = 0.5,
        num_digits: int = 5,
        num_classes: int = 11,
    ) -> None:
        super().__init__()
        given = transformers or []
        if len(given) > len(FILTERS):
            raise ValueError(
                f"{len(given)} transformers before {len(FILTERS)} convolutions; "
                f"give {len(FILTERS)} at most"
            )
        filters, units = ([round(width * n) for n in layer] for layer in (FILTERS, HIDDEN_SIZES))
        if min(filters) < 1:
            raise ValueError(f"width {width} leaves no filter; give {1 / min(FILTERS):.2f} or more")
        self.transformers = nn.ModuleList(given)
        self.convolutions = nn.ModuleList(
            nn.Conv2d(a, b, 5, padding=2) for a, b in zip([3, *filters], filters, strict=False)
        )
        self.hidden = layers.fully_connected(units, layers.initialise_for_relu)
        self.heads = nn.Linear(units[-1], num_digits * num_classes)
        self.dropout = nn.Dropout(dropout)
        self.num_digits = num_digits
        for layer in [*self.convolutions, *self.hidden[1:]]:
            layers.initialise_for_relu(layer)

    def forward(
        self, image: Float[Tensor, "batch 3 height width"]
    ) -> Float[Tensor, "batch digits classes"]:
        features = self._features(image, len(self.convolutions)).flatten(1)
        for layer in self.hidden:
            features = self.dropout(functional.relu(layer(features)))
        logits: Tensor = self.heads(features)
        return logits.unflatten(1, (self.num_digits, -1))

    def _features(self, image: Tensor, depth: int) -> Tensor:
        """Return the features after the first `depth` convolutions."""
        features = image
        for i, convolution in enumerate(self.convolutions[:depth]):
            if i < len(self.transformers):
                features = self.transformers[i](features)
            features = convolution(features)
            if i % 2 == 0:
                features = functional.max_pool2d(features, 2)
            features = functional.relu(features)  # after pooling: the same result, faster
            if i:
                features = self.dropout(features)
        return features


class SharedLayersCNN(MultiDigitCNN):
    """A transformer whose localisation shares the classifier's first layers.

    Warping feature maps cannot undo a distortion of the image: the features of a rotated digit are
    not the rotated features of the digit. So theta is regressed from feature maps, but the image
    itself is warped, and the crop runs through the same layers again.

    Args:
        transformer: a `SpatialTransformer` whose localisation takes feature maps.
        depth: number of shared convolutions; the last transformer of the paper's ST-CNN Multi comes
            after three.
        width: see `MultiDigitCNN`.
        dropout: see `MultiDigitCNN`.
        num_digits: see `MultiDigitCNN`.
        num_classes: see `MultiDigitCNN`.

    Raises:
        ValueError: the network has fewer than `depth` convolutions.

    Examples:
        >>> import torch
        >>> from stn_lightning.transformers import Affine, FullyConnectedLocalisation
        >>> from stn_lightning.transformers import SpatialTransformer
        >>> transformer = SpatialTransformer(FullyConnectedLocalisation(), Affine())
        >>> SharedLayersCNN(transformer, width=0.1)(torch.rand(2, 3, 64, 64)).shape
        torch.Size([2, 5, 11])
    """

    def __init__(
        self,
        transformer: nn.Module,
        depth: int = 3,
        width: float = 1.0,
        dropout: float = 0.5,
        num_digits: int = 5,
        num_classes: int = 11,
    ) -> None:
        super().__init__(width, None, dropout, num_digits, num_classes)
        if not 1 <= depth <= len(self.convolutions):
            raise ValueError(
                f"depth {depth}; the localisation shares 1 to {len(self.convolutions)} convolutions"
            )
        self.transformer = transformer
        self.depth = depth

    def forward(
        self, image: Float[Tensor, "batch 3 height width"]
    ) -> Float[Tensor, "batch digits classes"]:
        return super().forward(self.transformer(image, self._features(image, self.depth)))

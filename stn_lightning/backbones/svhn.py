"""The paper's classifier for house numbers: one picture to five digits, with or without
transformers between its layers.

Convolutions keep the size of what they see and each pooling halves it, border to border, so a theta
means the same place in the picture and in all its feature maps.

Reference:
    Jaderberg et al. 2015, section 4.2 and appendix A.5; Finnveden et al. 2020, "Understanding when
    spatial transformer networks do not support invariance, and what to do about it"
    (`SharedLayersCNN`).
"""

import itertools

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from stn_lightning import layers

FILTERS = (48, 64, 128, 160, 192, 192, 192, 192)
"""Of the paper's eight convolutions, 5 x 5 each; a pooling follows the first, third, fifth and
seventh.
"""
UNITS = (3072, 3072, 3072)
"""Of its fully connected layers."""


class MultiDigitCNN(nn.Module):
    """Eight convolutions, three fully connected layers, and a softmax for each digit of the number.

    A picture of 128 px leaves 8 x 8 pixels for the first fully connected layer where one of 64 px
    leaves 4 x 4; the paper says nothing of what it changed, and here nothing else changes (?).

    Args:
        width: of every layer over the paper's, for smaller machines.
        transformers: one before each of the first convolutions, from the first on; the paper's
            ST-CNN Multi has four.
        dropout: after every layer but the first; the paper's is 0.5.
        num_digits: how many a number has at most.
        num_classes: of each; the ten digits and "no digit here".

    Raises:
        ValueError: where there are more transformers than convolutions, or no layer has a filter
            left.
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
                f"{len(given)} transformers before {len(FILTERS)} convolutions; give {len(FILTERS)} at most"
            )
        filters, units = ([round(width * n) for n in layer] for layer in (FILTERS, UNITS))
        if min(filters) < 1:
            raise ValueError(f"width {width} leaves no filter; give {1 / min(FILTERS):.2f} or more")
        self.transformers = nn.ModuleList(given)
        self.convolutions = nn.ModuleList(
            nn.Conv2d(a, b, 5, padding=2) for a, b in zip([3, *filters], filters, strict=False)
        )
        self.hidden = nn.ModuleList(
            [
                layers.linear(units[0], layers.initialise_for_relu),
                *(nn.Linear(a, b) for a, b in itertools.pairwise(units)),
            ]
        )
        self.heads = nn.Linear(units[-1], num_digits * num_classes)
        self.dropout = dropout
        self.digits = num_digits
        for layer in [*self.convolutions, *self.hidden[1:]]:
            layers.initialise_for_relu(layer)

    def forward(
        self, image: Float[Tensor, "batch 3 height width"]
    ) -> Float[Tensor, "batch digits classes"]:
        features = self._features(image, len(self.convolutions)).flatten(1)
        for layer in self.hidden:
            features = self._dropped(functional.relu(layer(features)))
        logits: Tensor = self.heads(features)
        return logits.unflatten(1, (self.digits, -1))

    def _features(self, image: Tensor, depth: int) -> Tensor:
        """Of the first `depth` convolutions."""
        features = image
        for i, convolution in enumerate(self.convolutions[:depth]):
            if i < len(self.transformers):
                features = self.transformers[i](features)
            features = convolution(features)
            if i % 2 == 0:
                features = functional.max_pool2d(features, 2)
            features = functional.relu(
                features
            )  # after the pooling the same, of a quarter of the values
            if i:
                features = self._dropped(features)
        return features

    def _dropped(self, features: Tensor) -> Tensor:
        return functional.dropout(features, self.dropout, self.training)


class SharedLayersCNN(MultiDigitCNN):
    """A transformer that warps the picture, and finds where to look with the classifier's own first
    layers.

    A transformer on feature maps cannot undo what happened to the picture: features of a turned
    digit are not turned features. So the picture itself is read anew and goes through the same
    layers again.

    Args:
        transformer: a `SpatialTransformer` whose localisation reads feature maps.
        depth: how many convolutions the two share; in the paper's Multi the last transformer sees
            those of three.
        width: as in `MultiDigitCNN`.
        dropout: as there.
        num_digits: as there.
        num_classes: as there.
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

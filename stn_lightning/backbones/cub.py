"""The paper's classifier for birds: a stream for each crop, then one classifier over all of them.

Reference:
    Jaderberg et al. 2015, section 4.3.
"""

import copy
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from stn_lightning import layers


class MultiCropClassifier(nn.Module):
    """Each crop goes through a trunk and is averaged to one vector; vectors are concatenated,
    thinned out and classified.

    One image counts as one crop, so the same backbone without transformers is the baseline.

    Args:
        feature_extractor: image -> feature map.
        num_crops: how many each image has; the paper has 2 and 4.
        shared: whether one trunk serves all crops, in one call; else each has its own (the
            paper's), which begins as a copy of `feature_extractor`.
        dropout: before the classifier; the paper's is 0.7.
        num_classes: how many.

    Raises:
        ValueError: where there are no crops; in `forward`, where there are not as many as promised.
    """

    def __init__(
        self,
        feature_extractor: nn.Module,
        num_crops: int = 1,
        shared: bool = False,
        dropout: float = 0.7,
        num_classes: int = 200,
    ) -> None:
        super().__init__()
        if num_crops < 1:
            raise ValueError(f"{num_crops} crops; give 1 or more")
        self.crops = num_crops
        self.feature_extractors = nn.ModuleList(
            [feature_extractor]
            + [copy.deepcopy(feature_extractor) for _ in range(0 if shared else num_crops - 1)]
        )
        self.dropout = nn.Dropout(dropout)
        self.classifier = layers.linear(num_classes)

    def forward(
        self, image: Float[Tensor, "batch *crops_channels height width"]
    ) -> Float[Tensor, "batch classes"]:
        crops = image if image.dim() == 5 else image[:, None]  # (B, N, 3, H, W)
        if crops.shape[1] != self.crops:
            raise ValueError(
                f"{crops.shape[1]} crops an image, the backbone expects {self.crops}; make `crops` and the transformers' `n` agree"
            )
        if len(self.feature_extractors) == 1:
            vectors = (
                self._vectors(self.feature_extractors[0], crops.flatten(0, 1))
                .unflatten(0, (-1, self.crops))
                .flatten(1)
            )
        else:
            vectors = self._own(crops)
        logits: Tensor = self.classifier(self.dropout(vectors))
        return logits

    def _own(
        self, crops: Float[Tensor, "batch n channels height width"]
    ) -> Float[Tensor, "batch features"]:
        found = [
            self._vectors(trunk, crops[:, i]) for i, trunk in enumerate(self.feature_extractors)
        ]
        return torch.cat(found, dim=1)

    @staticmethod
    def _vectors(
        trunk: nn.Module, image: Float[Tensor, "batch channels height width"]
    ) -> Float[Tensor, "batch features"]:
        vectors: Tensor = trunk(image).mean((2, 3))
        return vectors


class SmallConvNet(nn.Module):
    """A small trunk to train from scratch: convolutions 3 x 3, each with batch normalisation.

    Args:
        num_filters: of each convolution.
        strides: of each, in pixels; 2 everywhere when left out.

    Raises:
        ValueError: where there are not as many strides as filters.
    """

    def __init__(
        self, num_filters: Sequence[int] = (32, 64, 128, 128), strides: Sequence[int] | None = None
    ) -> None:
        super().__init__()
        steps = [2] * len(num_filters) if strides is None else list(strides)
        if len(steps) != len(num_filters):
            raise ValueError(
                f"{len(steps)} strides for {len(num_filters)} filters; give each convolution one"
            )
        modules: list[nn.Module] = []
        for i, (width, step) in enumerate(zip(num_filters, steps, strict=True)):
            conv = (
                nn.Conv2d(num_filters[i - 1], width, 3, step, 1)
                if i
                else layers.conv2d(width, 3, step, 1)
            )
            modules += [conv, nn.BatchNorm2d(width), nn.ReLU()]
        self.layers = nn.Sequential(*modules)

    def forward(
        self, image: Float[Tensor, "batch channels height width"]
    ) -> Float[Tensor, "batch features rows columns"]:
        found: Tensor = self.layers(image * 2 - 1)
        return found

"""Classifiers for birds, on the features of crops.

Reference:
    Jaderberg et al. 2015, section 4.3 (`MultiCropClassifier`). `SharedStemClassifier` is ours.
"""

import copy

import torch
from jaxtyping import Float
from torch import Tensor, nn

from stn_lightning import layers
from stn_lightning.shapes import Images, Logits

CHUNK = 4
"""Number of images in each call of a frozen stem on a CPU."""


class MultiCropClassifier(nn.Module):
    """Classify the concatenated mean features of crops.

    The input is (batch, num_crops, 3, height, width), or (batch, 3, height, width) for the baseline
    without transformers.

    Args:
        feature_extractor: image -> feature map.
        num_crops: crops of each image; the paper has 2 and 4.
        shared: whether all crops share one feature extractor. By default, as in the paper, each
            crop has its own, a copy of `feature_extractor`.
        dropout: dropout rate before the classifier; the paper's is 0.7.
        num_classes: number of classes.

    Raises:
        ValueError: `num_crops` is less than 1; in `forward`, an image has another number of crops.

    Examples:
        >>> from stn_lightning.backbones import SmallConvNet
        >>> network = MultiCropClassifier(SmallConvNet(), num_crops=2)
        >>> network(torch.rand(3, 2, 3, 64, 64)).shape
        torch.Size([3, 200])
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
            raise ValueError(f"num_crops {num_crops}; give 1 or more")
        self.num_crops = num_crops
        copies = 0 if shared else num_crops - 1
        self.feature_extractors = nn.ModuleList(
            [feature_extractor, *(copy.deepcopy(feature_extractor) for _ in range(copies))]
        )
        self.dropout = nn.Dropout(dropout)
        self.classifier = layers.linear(num_classes)

    def forward(self, image: Float[Tensor, "batch *crops_channels height width"]) -> Logits:
        crops = image if image.dim() == 5 else image[:, None]
        if crops.shape[1] != self.num_crops:
            raise ValueError(
                f"an image has {crops.shape[1]} crops, the backbone expects {self.num_crops}; "
                "set its num_crops to the transformer's num_transformers"
            )
        if len(self.feature_extractors) == 1:
            maps = self.feature_extractors[0](crops.flatten(0, 1))
            features = maps.mean((2, 3)).unflatten(0, crops.shape[:2]).flatten(1)
        else:
            extracted = zip(self.feature_extractors, crops.unbind(1), strict=True)
            features = torch.cat([extract(crop).mean((2, 3)) for extract, crop in extracted], 1)
        logits: Tensor = self.classifier(self.dropout(features))
        return logits


class SharedStemClassifier(nn.Module):
    """Classify crops of a stem's feature maps.

    A transformer may be anywhere in a network (section 3.4 of the paper). Here it crops the feature
    maps of the stem, the first layers of a feature extractor, which run once for each image. If the
    stem is frozen, no gradient has to be computed for it. The localisation's input is the stem's
    feature map of a smaller view: the whole image, reduced by `shrink`.

    Args:
        stem: image -> feature maps.
        classifier: crops of feature maps -> logits, for example a `MultiCropClassifier` with the
            layers after the stem.
        transformer: `ParallelTransformer` or `SpatialTransformer` on feature maps. Without one the
            classifier gets the feature map of the whole image, or, with `global_view`, of the
            smaller view.
        shrink: factor by which the smaller view is reduced.
        global_view: whether the classifier gets the feature map of the smaller view as its last
            crop. The crops must have the same size, 1 / `shrink` of the image.

    Examples:
        >>> from stn_lightning.backbones import SmallConvNet
        >>> classifier = MultiCropClassifier(SmallConvNet((16,)), num_classes=5)
        >>> network = SharedStemClassifier(SmallConvNet((8, 8)), classifier)
        >>> network(torch.rand(2, 3, 64, 64)).shape
        torch.Size([2, 5])
    """

    def __init__(
        self,
        stem: nn.Module,
        classifier: nn.Module,
        transformer: nn.Module | None = None,
        shrink: int = 2,
        global_view: bool = False,
    ) -> None:
        super().__init__()
        self.stem = stem
        self.transformer = transformer
        self.classifier = classifier
        self.shrink = shrink
        self.global_view = global_view

    def forward(self, image: Images) -> Logits:
        logits: Tensor = self.classifier(self._views(image))
        return logits

    def _views(self, image: Tensor) -> Tensor:
        if self.transformer is None and not self.global_view:
            return self._stem(image)
        small = self._stem(layers.reduce_image(image, self.shrink))
        if self.transformer is None:
            return small
        crops: Tensor = self.transformer(self._stem(image), small)
        crops = crops if crops.dim() == 5 else crops[:, None]
        return torch.cat([crops, small[:, None].to(crops.dtype)], 1) if self.global_view else crops

    def _stem(self, image: Tensor) -> Tensor:
        """Run the stem, on a CPU in small batches.

        Their maps stay in the processor's cache, which halves the time (docs/birds.md). A trained
        stem gets the whole batch, for batch normalisation.
        """
        chunked = image.device.type == "cpu" and not torch.compiler.is_compiling()
        if self.stem.training or not chunked or len(image) <= CHUNK:
            maps: Tensor = self.stem(image)
            return maps
        return torch.cat([self.stem(part) for part in image.split(CHUNK)])

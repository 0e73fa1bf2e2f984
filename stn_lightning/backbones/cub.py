"""Classifiers for birds, of the features of crops.

Reference:
    Jaderberg et al. 2015, section 4.3 (`MultiCropClassifier`). `SharedStemClassifier` is ours.
"""

import copy

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from stn_lightning import layers

CHUNK = 4
"""Images that a frozen stem gets at a time on a CPU."""


class MultiCropClassifier(nn.Module):
    """Classify the concatenated mean features of crops.

    One image counts as one crop, so the same backbone without transformers is the baseline.

    Args:
        feature_extractor: image -> feature map.
        num_crops: crops of each image; the paper has 2 and 4.
        shared: whether one feature extractor serves all crops, in one call; else each crop has its
            own (the paper's), which begins as a copy of `feature_extractor`.
        dropout: before the classifier; the paper's is 0.7.
        num_classes: number of classes.

    Raises:
        ValueError: if there are no crops; in `forward`, where an image has another number.

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

    def forward(
        self, image: Float[Tensor, "batch *crops_channels height width"]
    ) -> Float[Tensor, "batch classes"]:
        crops = image if image.dim() == 5 else image[:, None]
        if crops.shape[1] != self.num_crops:
            raise ValueError(
                f"{crops.shape[1]} crops an image, the backbone expects {self.num_crops}; "
                "give its num_crops and the transformer's num_transformers the same number"
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

    The stem runs once for each image. A transformer may stand anywhere in a network (section 3.4 of
    the paper). Behind a frozen stem it costs least: no crop runs through the stem again, and no
    gradient runs back through it. The localisation reads the stem's features of the whole image in
    a smaller view.

    Args:
        stem: image -> feature maps, for example a frozen feature extractor's first layers.
        classifier: crops of feature maps -> logits: a `MultiCropClassifier` with the layers after
            the stem.
        transformer: `ParallelTransformer` or `SpatialTransformer` on feature maps, whose
            localisation reads feature maps of the smaller view. Without one the classifier gets all
            of the image: in the smaller view where `global_view` is true.
        shrink: pixels of the image across a pixel of the smaller view.
        global_view: whether the classifier gets the smaller view as its last crop. It has the size
            of a crop where crops are 1 / `shrink` of the image.

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

    def forward(
        self, image: Float[Tensor, "batch channels height width"]
    ) -> Float[Tensor, "batch classes"]:
        logits: Tensor = self.classifier(self._views(image))
        return logits

    def _views(self, image: Tensor) -> Tensor:
        if self.transformer is None and not self.global_view:
            return self._stem(image)
        small = self._stem(functional.avg_pool2d(image, self.shrink))
        if self.transformer is None:
            return small
        crops: Tensor = self.transformer(self._stem(image), small)
        crops = crops if crops.dim() == 5 else crops[:, None]
        return torch.cat([crops, small[:, None].to(crops.dtype)], 1) if self.global_view else crops

    def _stem(self, image: Tensor) -> Tensor:
        """Run the stem, on a CPU in small parts.

        A few images at a time, whose maps stay in the cache, halve its time (docs/birds.md). A stem
        that is trained needs its whole batch.
        """
        chunked = image.device.type == "cpu" and not torch.compiler.is_compiling()
        if self.stem.training or not chunked or len(image) <= CHUNK:
            maps: Tensor = self.stem(image)
            return maps
        return torch.cat([self.stem(part) for part in image.split(CHUNK)])

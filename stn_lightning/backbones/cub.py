"""The paper's classifier for birds: features of each crop, then one classifier of all of them.

Reference:
    Jaderberg et al. 2015, section 4.3.
"""

import copy

import torch
from jaxtyping import Float
from torch import Tensor, nn

from stn_lightning import layers


class MultiCropClassifier(nn.Module):
    """Average the features of each crop, concatenate, apply dropout and classify.

    One image counts as one crop, so the same backbone without transformers is the baseline.

    Args:
        feature_extractor: image -> feature map.
        num_crops: of each image; the paper has 2 and 4.
        shared: whether one feature extractor serves all crops, in one call; else each crop has its
            own (the paper's), which begins as a copy of `feature_extractor`.
        dropout: before the classifier; the paper's is 0.7.
        num_classes: number of classes.

    Raises:
        ValueError: where there are no crops; in `forward`, where an image has another number.

    Example:
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

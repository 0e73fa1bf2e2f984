"""Classify volumes as images.

Reference:
    Jaderberg et al. 2015, appendix A.3: the transformed volume is projected along its depth and
    classified as an image.
"""

from jaxtyping import Float
from torch import Tensor, nn

from stn_lightning.shapes import Logits


class DepthProjection(nn.Module):
    """Classify a volume by its mean along the depth.

    Args:
        backbone: image -> logits.

    Examples:
        >>> import torch
        >>> from stn_lightning.backbones import CNN
        >>> DepthProjection(CNN(8))(torch.rand(2, 1, 30, 28, 28)).shape
        torch.Size([2, 10])
    """

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(self, volume: Float[Tensor, "batch channels depth height width"]) -> Logits:
        logits: Tensor = self.backbone(volume.mean(2))
        return logits

"""Volumes as pictures.

Reference:
    Jaderberg et al. 2015, appendix A.3: what the transformer has turned upright is flattened along
    its depth and classified.
"""

from jaxtyping import Float
from torch import Tensor, nn


class DepthProjection(nn.Module):
    """A volume seen from the front: the mean along its depth, as a picture for another backbone.

    Args:
        backbone: picture -> logits.
    """

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(
        self, volume: Float[Tensor, "batch channels depth height width"]
    ) -> Float[Tensor, "batch classes"]:
        logits: Tensor = self.backbone(volume.mean(2))
        return logits

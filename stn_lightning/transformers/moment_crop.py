"""A start that follows the ink's mean and extent."""

import torch
from jaxtyping import Float
from torch import Tensor

from stn_lightning.transformers.families import Family
from stn_lightning.transformers.starts import Identity, Start


class MomentCrop(Start):
    """Starts around the ink, in proportion to its extent.

    For `MomentLocalisation` on images or volumes of one channel, whose features end with the
    moments. Place and scale follow the ink from the first step on, whatever the seed, and the
    training has the angle left to find. Composing keeps it: seen in its own crop, the ink lies in
    the middle and fills it as it should, so that the second correction is the identity.

    Args:
        scale: half of the crop's side over the ink's extent, the square root of the sum of its
            variances (`geometry.moments`).

    Raises:
        ValueError: the family's grid is not linear in theta, or the features are no moments.

    >>> weight = MomentCrop(2.5).weight(Attention(), 1, 6)[0]
    >>> weight @ torch.tensor([0.1, -0.3, 0.2, 0.5, 0.0, 0.5])  # moments: mean, extent, shape
    tensor([ 0.5000,  0.1000, -0.3000])
    """

    def __init__(self, scale: float = 2.5) -> None:
        if not scale > 0:
            raise ValueError(f"scale {scale} of a crop must be greater than 0")
        self.scale = scale

    def theta(self, family: Family, n: int) -> Float[Tensor, "n numbers"]:
        identity, size = Identity().theta(family, 1), (2,) * family.dimensions
        if not torch.equal(family(2 * identity, size), 2 * family(identity, size)):
            raise ValueError(
                f"MomentCrop needs a family whose grid is linear in theta, not "
                f"{type(family).__name__}; take Affine, Similarity or Attention"
            )
        return torch.zeros(n, len(family.identity))

    def weight(self, family: Family, n: int, features: int) -> Float[Tensor, "n numbers features"]:
        axes = family.dimensions
        moments = axes + 1 + axes * (axes + 1) // 2  # mean, extent, variances and covariances
        if features < moments:
            raise ValueError(
                f"MomentCrop needs the {moments} moments of the ink, not {features} features; "
                "take MomentLocalisation"
            )
        weight = super().weight(family, n, features)
        identity = torch.tensor(family.identity)
        mean = features - moments
        weight[:, :, mean : mean + axes] = family.translation(identity)
        weight[:, :, mean + axes] = self.scale * identity
        return weight

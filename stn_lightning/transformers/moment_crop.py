"""A start whose crop follows the ink's mean and extent."""

import torch
from jaxtyping import Float
from torch import Tensor

from stn_lightning.transformers.families import Family
from stn_lightning.transformers.starts import Identity, Start


class MomentCrop(Start):
    """Starts with a crop around the ink.

    It is for `MomentLocalisation` on images or volumes of one channel, whose last features are the
    moments. From the first step on the crop is centred at the ink's mean and its size is
    proportional to the ink's extent, so that training only has to find the angle. It also works in
    a `ComposedTransformer`: in its own crop the ink is centred and has the right size, so the
    second correction is the identity.

    Args:
        scale: half of the crop's side / extent of the ink (`geometry.moments`).

    Raises:
        ValueError: the family's grid is not linear in theta, or there are fewer features than
            moments.

    >>> weight = MomentCrop(2.5).weight(Attention(), torch.zeros(1, 3), 6)[0]
    >>> weight @ torch.tensor([0.1, -0.3, 0.2, 0.5, 0.0, 0.5])  # moments: mean, extent, shape
    tensor([ 0.5000,  0.1000, -0.3000])
    """

    def __init__(self, scale: float = 2.5) -> None:
        if not scale > 0:
            raise ValueError(f"scale {scale} of a crop must be greater than 0")
        self.scale = scale

    def theta(self, family: Family, n: int) -> Float[Tensor, "n numbers"]:
        # theta near the identity; halves and quarters have no rounding errors
        numbers = len(family.identity)
        some = Identity().theta(family, 1) + torch.tensor([0.5, 0.25]).repeat(numbers)[:numbers]
        size = (2,) * family.dimensions
        if not torch.equal(family(2 * some, size), 2 * family(some, size)):
            raise ValueError(
                f"MomentCrop needs a family whose grid is linear in theta, not "
                f"{type(family).__name__}; take Affine, Similarity or Attention"
            )
        return torch.zeros(n, len(family.identity))

    def weight(
        self, family: Family, thetas: Float[Tensor, "n numbers"], features: int
    ) -> Float[Tensor, "n numbers features"]:
        axes = family.dimensions
        moments = axes + 1 + axes * (axes + 1) // 2  # mean, extent, variances and covariances
        if features < moments:
            raise ValueError(
                f"MomentCrop needs the {moments} moments of the ink, not {features} features; "
                "take MomentLocalisation"
            )
        weight = super().weight(family, thetas, features)
        identity = torch.tensor(family.identity)
        mean = features - moments
        weight[:, :, mean : mean + axes] = family.translation(identity)
        weight[:, :, mean + axes] = self.scale * identity
        return weight

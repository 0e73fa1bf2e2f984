"""Several transformers on one image, sampled in one call.

Reference:
    Jaderberg et al. 2015, section 4.3 (2 and 4 transformers for birds) and appendix A.1 (2 for the
    sum of two digits).
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from stn_lightning.transformers.families import Family, Size
from stn_lightning.transformers.samplers import Bilinear, Sampler
from stn_lightning.transformers.starts import Identity, Start
from stn_lightning.transformers.transformer import Regression, Transformer, WarpOutput


class ParallelTransformer(Transformer):
    """`num_transformers` transformers that read the same image; returns (batch, n, channels,
    *size).

    Args:
        localisation: one network whose features all transformers share (the paper's birds), or a
            list of `num_transformers`, one each.
        family: which transformations they may choose from.
        num_transformers: how many.
        size: of each output image; the input's own size when left out.
        sampler: bilinear with zeros outside when left out.
        start: where each begins; the identity when left out. Transformers that share a localisation
            and a start get the same gradient at first if the backbone treats them alike: take
            `Tiling`, `NoisyIdentity` or `HeatmapCentres`.

    Raises:
        ValueError: where a list of localisations is not of length `num_transformers`.
    """

    def __init__(
        self,
        localisation: nn.Module | list[nn.Module],
        family: Family,
        num_transformers: int,
        size: Size | None = None,
        sampler: Sampler | None = None,
        start: Start | None = None,
    ) -> None:
        super().__init__()
        if num_transformers < 1:
            raise ValueError(f"{num_transformers} parallel transformers; n must be 1 or more")
        own = localisation if isinstance(localisation, list) else [localisation]
        if isinstance(localisation, list) and len(own) != num_transformers:
            raise ValueError(
                f"{len(own)} localisations for n = {num_transformers} transformers; give one to share, or a list of {num_transformers}"
            )
        self.localisations = nn.ModuleList(own)
        each = num_transformers // len(own)
        parts = [slice(i, i + each) for i in range(0, num_transformers, each)]
        self.regressions = nn.ModuleList(
            Regression(start or Identity(), family, num_transformers, part) for part in parts
        )
        self.family = family
        self.n = num_transformers
        self.size = size
        self.sampler = sampler or Bilinear()

    def warp(self, image: Float[Tensor, "batch channels *in_size"]) -> WarpOutput:
        looks = zip(self.localisations, self.regressions, strict=True)
        theta = torch.cat(
            [regression(localisation(image)) for localisation, regression in looks], dim=1
        )  # (B, n, numbers)
        theta = self.family.bound(theta.flatten(0, 1)).unflatten(0, (-1, self.n))
        grid = self.family.grid(theta.flatten(0, 1), self.size or tuple(image.shape[2:]))
        grid = grid.unflatten(0, (-1, self.n))
        return WarpOutput(self.sampler.sample_each(image, grid), theta, grid)

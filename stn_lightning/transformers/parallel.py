"""Several transformers of one image, sampled in one call.

Reference:
    Jaderberg et al. 2015, section 4.3 (2 and 4 transformers for birds) and appendix A.1 (2 for the
    sum of two digits).
"""

import torch
from torch import nn

from stn_lightning.shapes import Batched, ImagesND
from stn_lightning.transformers.families import Family, Size
from stn_lightning.transformers.samplers import Bilinear, Sampler
from stn_lightning.transformers.starts import Identity, Start
from stn_lightning.transformers.transformer import Regression, Transformer, WarpOutput


class ParallelTransformer(Transformer):
    """Warps one image `num_transformers` times: (batch, n, channels, *size).

    Args:
        localisation: a network whose features all transformers share (as for the paper's birds), or
            a list with one for each transformer.
        family: family of all transformers.
        num_transformers: number of transformers, n.
        size: (height, width) of each output image; by default that of the input.
        sampler: bilinear with zeros by default.
        start: first theta of each; the identity by default. Transformers with the same localisation
            and start get the same gradient if the backbone treats them alike, and never differ. So
            give `Tiling`, `NoisyIdentity` or `HeatmapCentres`.

    Raises:
        ValueError: a list of localisations is not of length `num_transformers`.

    >>> family, start = Translation(0.5), Tiling()
    >>> two = ParallelTransformer(FullyConnectedLocalisation(), family, 2, (14, 14), start=start)
    >>> two(torch.rand(5, 1, 28, 28)).shape
    torch.Size([5, 2, 1, 14, 14])
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
            raise ValueError(f"{num_transformers} parallel transformers; give 1 or more")
        if isinstance(localisation, nn.Module) and not isinstance(localisation, nn.ModuleList):
            localisations = [localisation]
        else:
            localisations = list(localisation)
            if len(localisations) != num_transformers:
                raise ValueError(
                    f"{len(localisations)} localisations for {num_transformers} transformers; "
                    f"give one to share, or a list of {num_transformers}"
                )
        self.localisations = nn.ModuleList(localisations)
        each = num_transformers // len(localisations)
        parts = [slice(i, i + each) for i in range(0, num_transformers, each)]
        self.regressions = nn.ModuleList(
            Regression(start or Identity(), family, num_transformers, part) for part in parts
        )
        self.family = family
        self.n = num_transformers
        self.size = size
        self.sampler = sampler or Bilinear()

    def warp(self, image: ImagesND, localisation_input: Batched | None = None) -> WarpOutput:
        view = image if localisation_input is None else localisation_input
        pairs = zip(self.localisations, self.regressions, strict=True)
        theta = torch.cat(
            [regression(localisation(view)) for localisation, regression in pairs], dim=1
        )  # (B, n, numbers)
        theta = self.family.bound(theta.flatten(0, 1)).unflatten(0, (-1, self.n))
        grid = self.family.grid(theta.flatten(0, 1), self.size or tuple(image.shape[2:]))
        grid = grid.unflatten(0, (-1, self.n))
        return WarpOutput(self.sampler.sample_each(image, grid), theta, grid)

"""Several looks at one image, each correcting the last (inverse compositional spatial transformer).

Reference:
    Lin and Lucey 2017, "Inverse Compositional Spatial Transformer Networks": compose parameters and
    resample the ORIGINAL image, where transformers in a row would blur and crop a little more at
    every step.
"""

from jaxtyping import Float
from torch import Tensor, nn

from stn_lightning.transformers.families import ComposableFamily, Size
from stn_lightning.transformers.samplers import Bilinear, Sampler
from stn_lightning.transformers.starts import Identity, Start
from stn_lightning.transformers.transformer import Regression, Transformer, WarpOutput


class ComposedTransformer(Transformer):
    """Localises in the warped image, composes the correction with what it had, resamples the
    original; `steps` times.

    Args:
        localisation: image of `size` -> features; the same one at every step.
        family: closed under composition.
        steps: how many looks; 1 is a `SpatialTransformer`.
        size: of the output image and of what the localisation sees; the input's own size when left
            out.
        sampler: bilinear with zeros outside when left out.
        start: what the correction at each step is at first: the identity when left out.
    """

    def __init__(
        self,
        localisation: nn.Module,
        family: ComposableFamily,
        steps: int,
        size: Size | None = None,
        sampler: Sampler | None = None,
        start: Start | None = None,
    ) -> None:
        super().__init__()
        if steps < 1:
            raise ValueError(f"{steps} steps; a composed transformer looks 1 time or more")
        if not isinstance(family, ComposableFamily):
            raise ValueError(
                f"{type(family).__name__} is not closed under composition; take Affine, Similarity, Attention or Projective"
            )
        self.localisation = localisation
        self.regression = Regression(start or Identity(), family, 1)
        self.family = family
        self.steps = steps
        self.size = size
        self.sampler = sampler or Bilinear()

    def warp(self, image: Float[Tensor, "batch channels *in_size"]) -> WarpOutput:
        size = self.size or tuple(image.shape[2:])
        identity: Tensor = self.regression.start.new_tensor(self.family.identity)
        theta = identity.expand(image.shape[0], -1)
        for _ in range(self.steps):
            seen = self.sampler(image, self.family(theta, size))
            correction = self.regression(self.localisation(seen)).squeeze(1)
            theta = self.family.compose(theta, correction)
        grid = self.family(theta, size)
        return WarpOutput(self.sampler(image, grid), theta, grid)

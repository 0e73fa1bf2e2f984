"""Repeated localisation in the warped image.

Reference:
    Lin and Lucey 2017, "Inverse Compositional Spatial Transformer Networks": theta is composed and
    the original image is sampled again at every step. Transformers in series, in contrast, blur and
    crop a little more at every step.
"""

from torch import Tensor, nn

from stn_lightning.shapes import Batched, ImagesND
from stn_lightning.transformers.families import ComposableFamily, Size
from stn_lightning.transformers.samplers import Bilinear, Sampler
from stn_lightning.transformers.starts import Identity, Start
from stn_lightning.transformers.transformer import Regression, Transformer, WarpOutput


class ComposedTransformer(Transformer):
    """Corrects theta several times, each in the warped image.

    Each step samples the original image, or the `localisation_input`.

    Args:
        localisation: image of `size` -> features; all steps share it.
        family: a family that is closed under composition.
        steps: number of corrections; with 1 it is a `SpatialTransformer`.
        size: (height, width) of the output image and of the localisation's input; by default that
            of the input.
        sampler: bilinear with zeros by default.
        start: first correction of each step; the identity by default.

    Raises:
        ValueError: `steps` is below 1, or the family is not closed under composition.

    >>> transformer = ComposedTransformer(FullyConnectedLocalisation(), Affine(), steps=2)
    >>> transformer(torch.rand(5, 1, 28, 28)).shape
    torch.Size([5, 1, 28, 28])
    """

    family: ComposableFamily

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
            raise ValueError(f"{steps} steps; a composed transformer takes 1 step or more")
        if not isinstance(family, ComposableFamily):
            raise ValueError(
                f"{type(family).__name__} is not closed under composition; "
                "take Affine, Similarity, Attention or Projective"
            )
        self.localisation = localisation
        self.regression = Regression(start or Identity(), family, 1)
        self.family = family
        self.steps = steps
        self.size = size
        self.sampler = sampler or Bilinear()

    def warp(self, image: ImagesND, localisation_input: Batched | None = None) -> WarpOutput:
        view = image if localisation_input is None else localisation_input
        size = self.size or tuple(image.shape[2:])
        identity: Tensor = self.regression.start.new_tensor(self.family.identity)
        theta = identity.expand(image.shape[0], -1)
        for _ in range(self.steps):
            warped = self.sampler(view, self.family(theta, size))
            correction = self.regression(self.localisation(warped)).squeeze(1)
            theta = self.family.compose(theta, correction)
        grid = self.family(theta, size)
        return WarpOutput(self.sampler(image, grid), theta, grid)

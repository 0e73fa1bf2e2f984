"""Train crops to move with their images."""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from stn_lightning.distortions import CounterRandom
from stn_lightning.geometry import affine
from stn_lightning.geometry.equivariance import equivariance_penalty
from stn_lightning.shapes import Images, Theta
from stn_lightning.transformers import Bilinear, Transformer


class Equivariance:
    """Penalise crops that do not move with their images.

    In each training step every image is rotated, scaled and shifted at random, and the transformer
    crops the moved image, too. The crops should be the same, as their object is; the loss gets a
    penalty for the distance between them (`geometry.equivariance`). It needs no annotations, and
    not to know how the data are distorted.

    Args:
        weight: weight of the penalty in the loss.
        rotation: largest angle of a move, in degrees.
        scale: largest factor of a move's scale; the smallest is 1 / `scale`.
        shift: largest shift of a move along x and y, in halves of the image's sides. What leaves
            the image is lost.

    Raises:
        ValueError: a number is out of its range.

    Reference:
        Thewlis et al. 2017, "Unsupervised learning of object frames by dense equivariant image
        labelling", for points instead of crops.

    Examples:
        >>> from stn_lightning.transformers import (
        ...     Affine, FullyConnectedLocalisation, SpatialTransformer
        ... )
        >>> transformer = SpatialTransformer(FullyConnectedLocalisation(), Affine())
        >>> image, index = torch.rand(5, 1, 28, 28), torch.arange(5)
        >>> grid = transformer.warp(image).grid
        >>> randomness = CounterRandom(seed=0, stream=0, epoch=0, index=index)
        >>> bool(Equivariance()(transformer, image, grid[:, None], randomness) > 0)  # it stays
        True
    """

    def __init__(
        self,
        weight: float = 1.0,
        rotation: float = 45.0,
        scale: float = 1.2,
        shift: float = 0.15,
    ) -> None:
        if not (
            0 < weight < math.inf and 0 <= rotation <= 180 and 1 <= scale < 10 and 0 <= shift < 1
        ):
            raise ValueError(
                f"equivariance: weight {weight:g}, rotation {rotation:g}, scale {scale:g}, shift "
                f"{shift:g}; give weight > 0, rotation 0 to 180, scale 1 to 10, shift 0 to 1"
            )
        self.weight = weight
        self.rotation = rotation
        self.scale = scale
        self.shift = shift

    def __call__(
        self,
        transformer: Transformer,
        image: Images,
        grids: Float[Tensor, "batch n height width 2"],
        randomness: CounterRandom,
    ) -> Float[Tensor, ""]:
        """Return the weighted penalty, its mean over images and transformers.

        Args:
            transformer: the transformer, of images.
            image: its input.
            grids: sampling grids of its `n` crops of `image`.
            randomness: random numbers of the batch.
        """
        size = (image.shape[2], image.shape[3])
        move = self.moves(randomness, size)
        moved = Bilinear()(image, affine.grid(move, size))
        n = grids.shape[1]
        penalty = equivariance_penalty(
            grids.flatten(0, 1),
            transformer.warp(moved).grid.reshape(-1, *grids.shape[2:]),
            move.repeat_interleave(n, 0),
        )
        return self.weight * penalty.mean()

    def moves(self, randomness: CounterRandom, image_size: tuple[int, int]) -> Theta:
        """Draw similarities at random.

        Args:
            randomness: random numbers of the batch.
            image_size: (height, width); rotations preserve the shape of pixels.

        Returns:
            theta of affine maps from the moved image to the image.
        """
        height, width = image_size
        angle = randomness.uniform(1, -self.rotation, self.rotation)[:, 0] * (math.pi / 180)
        log_scale = math.log(self.scale)
        factor = randomness.uniform(1, -log_scale, log_scale)[:, 0].exp()
        t_x, t_y = randomness.uniform(2, -self.shift, self.shift).unbind(1)
        cosine, sine = factor * angle.cos(), factor * angle.sin()
        b, c = -sine * (height / width), sine * (width / height)
        return torch.stack([cosine, b, t_x, c, cosine, t_y], 1).float()

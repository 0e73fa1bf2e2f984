"""Localisation by heat maps: the mean point of each map."""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from stn_lightning import layers
from stn_lightning.geometry import lattice
from stn_lightning.shapes import Features, Images


class HeatmapLocalisation(nn.Module):
    """Mean points of heat maps of a feature extractor.

    It is for objects that may be anywhere in the image. A 1 x 1 convolution of the feature map
    gives heat maps. The features are x and y of the mean point of each map, weighted by a softmax
    over its pixels. For a crop to follow a map, two weights of the regression are enough, where
    other localisations have to learn the effect of each pixel on theta.

    Convention:
        Points are half-pixel, -1 to 1 across the image.

    Args:
        feature_extractor: image -> feature map, for example a pretrained network.
        num_maps: number of heat maps. Give more than there are objects, as some maps find nothing.
        sharpness: factor of the convolution before the softmax, 0 or more, or a list with one for
            each map. With 1, the maps of an untrained extractor are so flat that all means are near
            the centre. Maps of a low sharpness learn slowly.
        shrink: factor by which the image is reduced first, by averaging over squares.
        activation_weight: weight of the mean activation, 0 or more, or a list with one for each
            map: the feature map's mean over its channels, with mean 0 and standard deviation 1 over
            the pixels of each image. It is added before the softmax, without a gradient. In the
            last layers of a trained network it is high on objects (Wei et al. 2017). If any weight
            is above 0, the convolution begins at 0, so that crops begin on an object. For an
            untrained extractor leave it at 0.

    Raises:
        ValueError: a number is negative or not finite, `num_maps` is below 1, or a list is not of
            length `num_maps`; in the first forward pass if `shrink` is below 1.

    Reference:
        Levine et al. 2016, "End-to-end training of deep visuomotor policies", section 5.1; Wei et
        al. 2017, "Selective convolutional descriptor aggregation for fine-grained image retrieval",
        section 3.1 (`activation_weight`).

    >>> HeatmapLocalisation(nn.Conv2d(3, 8, 3), num_maps=2)(torch.rand(5, 3, 24, 24)).shape
    torch.Size([5, 4])
    """

    sharpness: Tensor
    activation_weight: Tensor

    def __init__(
        self,
        feature_extractor: nn.Module,
        num_maps: int = 8,
        sharpness: float | Sequence[float] = 10.0,
        shrink: int = 1,
        activation_weight: float | Sequence[float] = 0.0,
    ) -> None:
        super().__init__()
        self.feature_extractor = feature_extractor
        weights = _each_map("activation_weight", activation_weight, num_maps)
        sharpnesses = _each_map("sharpness", sharpness, num_maps)
        self.uses_activations = any(weights)
        self.conv = layers.conv2d(num_maps, 1, initialise=_zero if self.uses_activations else None)
        self.shrink = shrink
        for name, numbers in (("sharpness", sharpnesses), ("activation_weight", weights)):
            factors = torch.tensor(numbers)[:, None, None]  # (maps, 1, 1)
            self.register_buffer(name, factors, persistent=False)

    def forward(self, image: Images) -> Features:
        features = self.feature_extractor(layers.reduce_image(image, self.shrink))
        heat = self.sharpness * lattice.upcast(self.conv(features))
        if self.uses_activations:
            heat = heat + self.activation_weight * _standardised_mean(features.detach())
        weight = heat.flatten(2).softmax(2)
        weight = weight.unflatten(2, heat.shape[2:])  # (B, maps, rows, columns)
        x = (weight.sum(2) * lattice.axis(heat.shape[3], weight)).sum(2)
        y = (weight.sum(3) * lattice.axis(heat.shape[2], weight)).sum(2)
        return torch.stack([x, y], dim=2).flatten(1)  # (B, 2 maps)


def _each_map(name: str, values: float | Sequence[float], num_maps: int) -> list[float]:
    if num_maps < 1:
        raise ValueError(f"{num_maps} heat maps; give 1 or more")
    each = [values] * num_maps if isinstance(values, int | float) else values
    numbers = [float(value) for value in each]
    if len(numbers) != num_maps:
        raise ValueError(
            f"{name} is a list of length {len(numbers)} for {num_maps} maps; give one number for "
            f"all, or a list of {num_maps}"
        )
    if not all(0 <= number < math.inf for number in numbers):
        raise ValueError(f"{name} {values}; give finite numbers of 0 or more")
    return numbers


def _zero(layer: nn.Module) -> None:
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)


def _standardised_mean(
    features: Float[Tensor, "batch channels rows columns"],
) -> Float[Tensor, "batch 1 rows columns"]:
    """Return the mean over channels, standardised over pixels."""
    mean = lattice.upcast(features).mean(1, keepdim=True)
    mean = mean - mean.mean((2, 3), keepdim=True)
    return mean / (mean.square().mean((2, 3), keepdim=True) + 1e-12).sqrt()

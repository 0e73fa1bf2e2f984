"""Localisation networks: image -> features to regress theta from.

The layer that regresses theta from the features is part of the transformer, as it depends on family
and start.

Reference:
    Jaderberg et al. 2015, section 3.1 and appendix A.4 (sizes as in re-implementations).
"""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from stn_lightning import layers
from stn_lightning.geometry import lattice
from stn_lightning.geometry.moments import moments
from stn_lightning.shapes import Features, Images, ImagesND


class FullyConnectedLocalisation(nn.Module):
    """Fully connected layers on all pixels (the paper's ST-FCN).

    Args:
        hidden_sizes: width of each hidden layer; the paper's are three of 32.

    >>> FullyConnectedLocalisation([32, 16])(torch.rand(5, 1, 28, 28)).shape
    torch.Size([5, 16])
    """

    def __init__(self, hidden_sizes: Sequence[int] = (32, 32, 32)) -> None:
        super().__init__()
        self.layers = layers.fully_connected(hidden_sizes)

    def forward(self, image: ImagesND) -> Features:
        features = image.flatten(1)
        for layer in self.layers:
            features = functional.relu(layer(features))
        return features


class ConvolutionalLocalisation(nn.Module):
    """Two convolutions on the halved image (the paper's ST-CNN).

    A fully connected layer follows.

    Args:
        num_filters: filters of each convolution.
        kernel_size: kernel size of each convolution, in pixels.
        hidden_size: width of the fully connected layer.

    >>> ConvolutionalLocalisation()(torch.rand(5, 1, 42, 42)).shape
    torch.Size([5, 20])
    """

    def __init__(self, num_filters: int = 20, kernel_size: int = 5, hidden_size: int = 20) -> None:
        super().__init__()
        self.conv1 = layers.conv2d(num_filters, kernel_size)
        self.conv2 = nn.Conv2d(num_filters, num_filters, kernel_size)
        self.fc = layers.linear(hidden_size)

    def forward(self, image: Images) -> Features:
        features = functional.avg_pool2d(image, 2)
        features = functional.relu(functional.max_pool2d(self.conv1(features), 2))
        features = functional.relu(self.conv2(features))
        return functional.relu(self.fc(features.flatten(1)))


class FeatureLocalisation(nn.Module):
    """A feature extractor and two layers (the paper's birds).

    The layers are a 1 x 1 convolution and a fully connected one.

    Args:
        feature_extractor: image -> feature map, for example a pretrained network.
        shrink: factor by which the image is reduced first, by averaging over squares. The paper
            reduces 448 px to 224, so that finer crops do not make the localisation slower.
        num_filters: filters of the convolution.
        hidden_size: width of the fully connected layer.

    >>> FeatureLocalisation(nn.Conv2d(3, 8, 3))(torch.rand(5, 3, 24, 24)).shape
    torch.Size([5, 128])
    """

    def __init__(
        self,
        feature_extractor: nn.Module,
        shrink: int = 1,
        num_filters: int = 128,
        hidden_size: int = 128,
    ) -> None:
        super().__init__()
        self.feature_extractor = feature_extractor
        self.shrink = shrink
        self.conv = layers.conv2d(num_filters, 1)
        self.fc = layers.linear(hidden_size)

    def forward(self, image: Images) -> Features:
        features = self.feature_extractor(
            functional.avg_pool2d(image, self.shrink) if self.shrink > 1 else image
        )
        features = functional.relu(self.conv(features))
        return functional.relu(self.fc(features.flatten(1)))


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
        ValueError: a number is negative or not finite, or a list is not of length `num_maps`.

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
        image = functional.avg_pool2d(image, self.shrink) if self.shrink > 1 else image
        features = self.feature_extractor(image)
        heat = self.sharpness * lattice.upcast(self.conv(features))
        if self.uses_activations:
            heat = heat + self.activation_weight * _standardised_mean(features.detach())
        weight = heat.flatten(2).softmax(2)
        weight = weight.unflatten(2, heat.shape[2:])  # (B, maps, rows, columns)
        x = (weight.sum(2) * lattice.axis(heat.shape[3], weight)).sum(2)
        y = (weight.sum(3) * lattice.axis(heat.shape[2], weight)).sum(2)
        return torch.stack([x, y], dim=2).flatten(1)  # (B, 2 maps)


def _each_map(name: str, values: float | Sequence[float], num_maps: int) -> list[float]:
    each = [values] * num_maps if isinstance(values, int | float) else values
    numbers = [float(value) for value in each]
    if len(numbers) != num_maps:
        raise ValueError(
            f"{name} is a list of length {len(numbers)} for {num_maps} maps; give one number for "
            f"all, or a list of {num_maps}"
        )
    if not all(0 <= number < math.inf for number in numbers):
        raise ValueError(f"{name} {values}; give numbers of 0 or more")
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


class MomentLocalisation(nn.Module):
    """Another localisation, and the moments of each channel's ink.

    It is for images and volumes with a background of 0 and one object in each channel. Moments give
    the object's position, size and tilt from the first step on. The features are a fully connected
    layer of the localisation's features and the moments, followed by the moments themselves.

    Args:
        localisation: image or volume -> features.
        hidden_size: width of the fully connected layer.

    Reference:
        Hu 1962, "Visual pattern recognition by moment invariants".

    >>> MomentLocalisation(FullyConnectedLocalisation())(torch.rand(5, 1, 28, 28)).shape
    torch.Size([5, 70])
    """

    def __init__(self, localisation: nn.Module, hidden_size: int = 64) -> None:
        super().__init__()
        self.localisation = localisation
        self.fc = layers.linear(hidden_size)

    def forward(self, image: ImagesND) -> Features:
        ink = moments(image)
        features = self.localisation(image).flatten(1)
        both = functional.relu(self.fc(torch.cat([features, ink.to(features.dtype)], 1)))
        return torch.cat([both.to(ink.dtype), ink], 1)


class SVHNLocalisation(nn.Module):
    """Two padded convolutions (the paper's SVHN).

    There is a pooling layer between them, and fully connected layers follow.

    Args:
        num_filters: filters of each convolution.
        hidden_sizes: width of each fully connected layer.

    >>> SVHNLocalisation()(torch.rand(5, 3, 64, 64)).shape
    torch.Size([5, 32])
    """

    def __init__(self, num_filters: int = 32, hidden_sizes: Sequence[int] = (32, 32)) -> None:
        super().__init__()
        self.conv1 = layers.conv2d(num_filters, 5, padding=2)
        self.conv2 = nn.Conv2d(num_filters, num_filters, 5, padding=2)
        self.layers = FullyConnectedLocalisation(hidden_sizes)

    def forward(self, image: Images) -> Features:
        features = functional.relu(functional.max_pool2d(self.conv1(image), 2))
        features = functional.relu(self.conv2(features))
        output: Tensor = self.layers(features)
        return output


class VolumeLocalisation(nn.Module):
    """Two convolutions of a volume, and a fully connected layer.

    Args:
        num_filters: filters of each convolution.
        hidden_size: width of the fully connected layer.
        shrink: factor by which the volume is reduced first, by averaging over cubes.
        block: the voxels of each cube of `block` voxels a side become channels. So the first
            convolution covers `block` * `kernel_size` voxels with a stride of `block`. Unlike
            averaging this loses no detail, at about the same cost. Volumes are padded with zeros to
            whole blocks.
        kernel_size: kernel size of the first convolution, in blocks; that of the second is 3.

    Raises:
        ValueError: `shrink` or `block` is below 1.

    >>> VolumeLocalisation()(torch.rand(5, 1, 30, 30, 30)).shape
    torch.Size([5, 32])
    """

    def __init__(
        self,
        num_filters: int = 16,
        hidden_size: int = 32,
        shrink: int = 2,
        block: int = 1,
        kernel_size: int = 5,
    ) -> None:
        super().__init__()
        if shrink < 1 or block < 1:
            raise ValueError(f"shrink {shrink} and block {block} are in voxels; give 1 or more")
        self.shrink = shrink
        self.block = block
        self.conv1 = layers.conv3d(num_filters, kernel_size)
        self.conv2 = nn.Conv3d(num_filters, num_filters, 3)
        self.fc = layers.linear(hidden_size)

    def forward(self, volume: Float[Tensor, "batch channels depth height width"]) -> Features:
        if self.shrink > 1:
            volume = functional.avg_pool3d(volume, self.shrink)
        if self.block > 1:
            volume = _blocks_as_channels(volume, self.block)
        features = functional.relu(self.conv1(volume))
        features = functional.relu(self.conv2(functional.max_pool3d(features, 2, ceil_mode=True)))
        return functional.relu(self.fc(features.flatten(1)))


def _blocks_as_channels(
    volume: Float[Tensor, "batch channels depth height width"], block: int
) -> Float[Tensor, "batch more d h w"]:
    """Move the voxels of each block to channels."""
    padding = [side for n in reversed(volume.shape[2:]) for side in (0, -n % block)]
    blocks = functional.pad(volume, padding)
    for axis in (4, 3, 2):
        blocks = blocks.unflatten(axis, (-1, block))
    return blocks.permute(0, 1, 3, 5, 7, 2, 4, 6).flatten(1, 4)


class StridedLocalisation(nn.Module):
    """A strided convolution, pooling and fully connected layers.

    It is the paper's localisation for co-localisation (appendix A.2).

    Args:
        num_filters: filters of the convolution.
        kernel_size: kernel size of the convolution, in pixels.
        stride: stride of the convolution, in pixels.
        hidden_sizes: width of each fully connected layer.

    >>> StridedLocalisation()(torch.rand(5, 1, 84, 84)).shape
    torch.Size([5, 8])
    """

    def __init__(
        self,
        num_filters: int = 8,
        kernel_size: int = 9,
        stride: int = 4,
        hidden_sizes: Sequence[int] = (8, 8),
    ) -> None:
        super().__init__()
        self.conv = layers.conv2d(num_filters, kernel_size, stride)
        self.layers = FullyConnectedLocalisation(hidden_sizes)

    def forward(self, image: Images) -> Features:
        output: Tensor = self.layers(functional.relu(functional.max_pool2d(self.conv(image), 2)))
        return output

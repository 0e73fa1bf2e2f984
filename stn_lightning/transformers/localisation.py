"""Localisation networks: image -> features to regress theta from.

The regression layer belongs to the transformer, which knows its family and its start.

Reference:
    Jaderberg et al. 2015, section 3.1 and appendix A.4 (as handed down by re-implementations);
    Levine et al. 2016, "End-to-end training of deep visuomotor policies", section 5.1
    (`HeatmapLocalisation`).
"""

import itertools
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from stn_lightning import layers
from stn_lightning.geometry import lattice
from stn_lightning.geometry.moments import moments


class FullyConnectedLocalisation(nn.Module):
    """Fully connected layers on all pixels (the paper's ST-FCN).

    Args:
        hidden_sizes: width of each hidden layer; the paper's are three of 32.

    >>> FullyConnectedLocalisation([32, 16])(torch.rand(5, 1, 28, 28)).shape
    torch.Size([5, 16])
    """

    def __init__(self, hidden_sizes: Sequence[int] = (32, 32, 32)) -> None:
        super().__init__()
        hidden = [nn.Linear(a, b) for a, b in itertools.pairwise(hidden_sizes)]
        self.layers = nn.ModuleList([layers.linear(hidden_sizes[0]), *hidden])

    def forward(
        self, image: Float[Tensor, "batch channels *size"]
    ) -> Float[Tensor, "batch features"]:
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

    def forward(
        self, image: Float[Tensor, "batch channels height width"]
    ) -> Float[Tensor, "batch features"]:
        features = functional.avg_pool2d(image, 2)
        features = functional.relu(functional.max_pool2d(self.conv1(features), 2))
        features = functional.relu(self.conv2(features))
        return functional.relu(self.fc(features.flatten(1)))


class FeatureLocalisation(nn.Module):
    """A feature extractor and two layers (the paper's birds).

    The layers are a 1 x 1 convolution and a fully connected one.

    Args:
        feature_extractor: image -> feature map, for example a pretrained network.
        shrink: the extractor's input is the image averaged over squares of this many pixels; the
            paper halves 448 to 224, so that crops of twice the resolution cost no more.
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

    def forward(
        self, image: Float[Tensor, "batch channels height width"]
    ) -> Float[Tensor, "batch features"]:
        features = self.feature_extractor(
            functional.avg_pool2d(image, self.shrink) if self.shrink > 1 else image
        )
        features = functional.relu(self.conv(features))
        return functional.relu(self.fc(features.flatten(1)))


class HeatmapLocalisation(nn.Module):
    """Mean points of heat maps of a feature extractor.

    For things that may lie anywhere. The features are x and y of each map's mean, by a softmax over
    all of its pixels. A crop that follows a map needs two weights of its regression, where other
    localisations learn what each pixel means for theta; and there is no ReLU that can die.

    Convention:
        Points are half-pixel, -1 to 1 across the image.

    Args:
        feature_extractor: image -> feature map, for example a pretrained network.
        num_maps: number of heat maps; take more than there are things to find, since some find
            nothing.
        sharpness: factor of the heat; at 1 the maps of an untrained extractor are so flat that
            every mean is the centre.
        shrink: the extractor's input is the image averaged over squares of this many pixels.

    >>> HeatmapLocalisation(nn.Conv2d(3, 8, 3), num_maps=2)(torch.rand(5, 3, 24, 24)).shape
    torch.Size([5, 4])
    """

    def __init__(
        self,
        feature_extractor: nn.Module,
        num_maps: int = 8,
        sharpness: float = 10.0,
        shrink: int = 1,
    ) -> None:
        super().__init__()
        self.feature_extractor = feature_extractor
        self.conv = layers.conv2d(num_maps, 1)
        self.sharpness = sharpness
        self.shrink = shrink

    def forward(
        self, image: Float[Tensor, "batch channels height width"]
    ) -> Float[Tensor, "batch features"]:
        image = functional.avg_pool2d(image, self.shrink) if self.shrink > 1 else image
        heat = lattice.upcast(self.conv(self.feature_extractor(image)))
        weight = (self.sharpness * heat).flatten(2).softmax(2)
        weight = weight.unflatten(2, heat.shape[2:])  # (B, maps, rows, columns)
        x = (weight.sum(2) * lattice.axis(heat.shape[3], weight)).sum(2)
        y = (weight.sum(3) * lattice.axis(heat.shape[2], weight)).sum(2)
        return torch.stack([x, y], dim=2).flatten(1)  # (B, 2 maps)


class MomentLocalisation(nn.Module):
    """Another localisation, and the moments of each channel's ink.

    For images and volumes whose background is 0, with one thing in each channel: moments tell its
    place, size and tilt from the first step on, where a network needs many images to learn them.
    Both go through a fully connected layer; the moments are features themselves, too, so that a
    crop that follows the mean needs one weight.

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

    def forward(
        self, image: Float[Tensor, "batch channels *size"]
    ) -> Float[Tensor, "batch features"]:
        ink = moments(image)
        features = self.localisation(image).flatten(1)
        both = functional.relu(self.fc(torch.cat([features, ink.to(features.dtype)], 1)))
        return torch.cat([both.to(ink.dtype), ink], 1)


class SVHNLocalisation(nn.Module):
    """Two convolutions that keep the size (the paper's SVHN).

    A pooling layer stands between them, fully connected layers follow.

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

    def forward(
        self, image: Float[Tensor, "batch channels height width"]
    ) -> Float[Tensor, "batch features"]:
        features = functional.relu(functional.max_pool2d(self.conv1(image), 2))
        features = functional.relu(self.conv2(features))
        found: Tensor = self.layers(features)
        return found


class VolumeLocalisation(nn.Module):
    """Two convolutions of a volume, and a fully connected layer.

    Args:
        num_filters: filters of each convolution.
        hidden_size: width of the fully connected layer.
        shrink: the volume is averaged over cubes of this many voxels a side.
        block: voxels of cubes of this many a side become channels, so that the first convolution
            covers `block` times its `kernel_size` with a stride of `block`: it sees detail that
            averaging loses, at the same cost. Volumes are padded with zeros to whole blocks.
        kernel_size: size of the first convolution's kernel, in blocks; the second has 3.

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

    def forward(
        self, volume: Float[Tensor, "batch channels depth height width"]
    ) -> Float[Tensor, "batch features"]:
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
    """One strided convolution (the paper's co-localisation).

    Pooling and fully connected layers follow.

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

    def forward(
        self, image: Float[Tensor, "batch channels height width"]
    ) -> Float[Tensor, "batch features"]:
        found: Tensor = self.layers(functional.relu(functional.max_pool2d(self.conv(image), 2)))
        return found

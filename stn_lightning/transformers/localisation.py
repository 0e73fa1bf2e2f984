"""Localisation networks: image -> features to regress theta from.

The layer that regresses theta from the features is part of the transformer, as it depends on family
and start.

Reference:
    Jaderberg et al. 2015, section 3.1 and appendix A.4 (sizes as in re-implementations).
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from stn_lightning import layers
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
        features = self.feature_extractor(layers.reduce_image(image, self.shrink))
        features = functional.relu(self.conv(features))
        return functional.relu(self.fc(features.flatten(1)))


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

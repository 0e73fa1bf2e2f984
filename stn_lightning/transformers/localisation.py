"""Localisation networks: image -> features, from which a transformer regresses theta.

The regression layer itself belongs to the transformer, which knows how many numbers its family has
and where it starts.

Reference:
    Jaderberg et al. 2015, section 3.1 and appendix A.4 (as far as re-implementations pass it on);
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
    """Fully connected layers on all pixels (the paper's ST-FCN: three of 32).

    Args:
        hidden_sizes: width of each hidden layer.
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
    """Two convolutions on the halved image, then one fully connected layer (the paper's ST-CNN: 20
    filters of 5 x 5, 20 units).

    Args:
        num_filters: of each convolution.
        kernel_size: of each convolution, in pixels.
        hidden_size: of the fully connected layer.
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
    """A trunk, a convolution 1 x 1 and a fully connected layer (the paper's birds: 128 filters, 128
    units).

    Args:
        feature_extractor: image -> feature map, for example a pre-trained network without its
            classifier.
        shrink: the trunk sees the image averaged over squares of this many pixels; the paper halves
            448 to 224, so that looking twice as closely costs no more.
        num_filters: of the convolution.
        hidden_size: of the fully connected layer.
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
    """A trunk and a few heat maps of it, each of which says where something is: for things that may
    lie anywhere.

    Its features are places: x and y of each map's mean, by a softmax over all of its pixels. A crop
    that follows one needs two weights of its regression, where other localisations learn what each
    pixel means for theta; and no rectifier stands between that can die.

    Convention:
        Places are half-pixel, -1 to 1 across the image, as everywhere.

    Args:
        feature_extractor: image -> feature map, for example a pre-trained network without its
            classifier.
        num_maps: how many; more than there are things to find, since some find nothing.
        sharpness: what heat is multiplied by; at 1 the maps of an untrained trunk are so flat that
            every place is the middle.
        shrink: the trunk sees the image averaged over squares of this many pixels.
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
        heat = lattice.upcast(
            self.conv(
                self.feature_extractor(
                    functional.avg_pool2d(image, self.shrink) if self.shrink > 1 else image
                )
            )
        )
        weight = (
            (self.sharpness * heat).flatten(2).softmax(2).unflatten(2, heat.shape[2:])
        )  # (B, maps, rows, columns)
        x = (weight.sum(2) * lattice.axis(heat.shape[3], weight)).sum(2)
        y = (weight.sum(3) * lattice.axis(heat.shape[2], weight)).sum(2)
        return torch.stack([x, y], dim=2).flatten(1)  # (B, 2 maps)


class MomentLocalisation(nn.Module):
    """Another localisation, and where the ink of each channel lies: its middle, its extent and its
    shape to second order.

    What a network needs many pictures to find out, place, size and tilt of the only thing in a
    channel, these say of every image from the first step on. Both go through a fully connected
    layer; the moments also stand beside it, so that a crop that follows the middle needs one
    weight. For images and volumes whose background is 0, with one thing in each channel.

    Args:
        localisation: image or volume -> features.
        hidden_size: of the fully connected layer.

    Reference:
        Hu 1962, "Visual pattern recognition by moment invariants".
    """

    def __init__(self, localisation: nn.Module, hidden_size: int = 64) -> None:
        super().__init__()
        self.localisation = localisation
        self.fc = layers.linear(hidden_size)

    def forward(
        self, image: Float[Tensor, "batch channels *size"]
    ) -> Float[Tensor, "batch features"]:
        places = moments(image)
        features = self.localisation(image).flatten(1)
        both = functional.relu(self.fc(torch.cat([features, places.to(features.dtype)], 1)))
        return torch.cat([both.to(places.dtype), places], 1)


class SVHNLocalisation(nn.Module):
    """Two convolutions that keep the size, a pooling between them, fully connected layers (the
    paper's ST-CNN Single for SVHN).

    Args:
        num_filters: of each convolution.
        hidden_sizes: width of each fully connected layer.
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
    """Two convolutions with a pooling between them, then one fully connected layer.

    Args:
        num_filters: of each convolution.
        hidden_size: of the fully connected layer.
        shrink: the network sees the volume averaged over cubes of this many voxels a side.
        block: voxels of cubes of so many a side become channels, so that the first convolution is
            one of `block` times its `kernel_size` with a stride of `block`: detail that averaging
            would lose is seen at the same cost. Volumes are filled up with zeros to whole blocks.
        kernel_size: of the first convolution, in blocks; the second has 3.

    Raises:
        ValueError: where cubes or blocks have no voxels.
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
        features = functional.avg_pool3d(volume, self.shrink) if self.shrink > 1 else volume
        features = functional.relu(
            self.conv1(_blocks_as_channels(features, self.block) if self.block > 1 else features)
        )
        features = functional.relu(self.conv2(functional.max_pool3d(features, 2, ceil_mode=True)))
        return functional.relu(self.fc(features.flatten(1)))


def _blocks_as_channels(
    volume: Float[Tensor, "batch channels depth height width"], block: int
) -> Float[Tensor, "batch more d h w"]:
    whole = [side for n in reversed(volume.shape[2:]) for side in (0, -n % block)]
    cut = (
        functional.pad(volume, whole)
        .unflatten(4, (-1, block))
        .unflatten(3, (-1, block))
        .unflatten(2, (-1, block))
    )
    return cut.permute(0, 1, 3, 5, 7, 2, 4, 6).flatten(
        1, 4
    )  # (B, C block^3, D / block, H / block, W / block)


class StridedLocalisation(nn.Module):
    """One strided convolution, pooling, fully connected layers (the paper's co-localisation: 8
    filters of 9 x 9, stride 4; 8 and 8 units).

    Args:
        num_filters: of the convolution.
        kernel_size: of the convolution, in pixels.
        stride: of the convolution, in pixels.
        hidden_sizes: width of each fully connected layer.
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

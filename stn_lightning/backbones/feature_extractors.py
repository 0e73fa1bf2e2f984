"""Pre-trained networks without their classifier: image -> feature map.

A feature extractor has the normalisation that its weights were trained with. So images are floats
from 0 to 1 everywhere else, and a sampler's padding is a colour as people mean it.
"""

from abc import abstractmethod
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torchvision import models
from torchvision.models.feature_extraction import create_feature_extractor

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""of ImageNet's channels, 0 to 1"""
LR_STEPS = 8
"""in which learning rates rise through a network, at most: a parameter group for each"""


class FeatureExtractor(nn.Module):
    """Normalise an image, then run a network up to its last feature map.

    Args:
        mean: of each channel, to be subtracted.
        std: of each channel, to divide by.
        frozen: whether nothing in it is trained; its batch normalisation keeps its statistics.
        lr_scales: learning rates of the first and of the last layer over that of other networks;
            they rise geometrically between the two, so that layers that know edges forget less
            than layers that know heads.

    Raises:
        ValueError: where a scale is not above 0.
    """

    mean: Tensor
    std: Tensor
    network: nn.Module

    def __init__(
        self,
        mean: tuple[float, ...],
        std: tuple[float, ...],
        frozen: bool,
        lr_scales: tuple[float, float],
    ) -> None:
        super().__init__()
        if not min(lr_scales) > 0:
            raise ValueError(
                f"lr_scales {lr_scales[0]:g} and {lr_scales[1]:g} must be above 0; "
                "to train nothing, give frozen: true"
            )
        self.register_buffer("mean", torch.tensor(mean)[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor(std)[:, None, None], persistent=False)
        self.frozen = frozen
        self.lr_scales = lr_scales

    @abstractmethod
    def features(self, image: Float[Tensor, "batch 3 height width"]) -> Tensor:
        """Return a map of a normalised image, or tokens, whose last ones are its patches."""

    def forward(
        self, image: Float[Tensor, "batch 3 height width"]
    ) -> Float[Tensor, "batch features rows columns"]:
        maps = self.features((image - self.mean) / self.std)
        if maps.dim() == 3:  # a vision transformer's patches are a square
            side = int((maps.shape[1] - 1) ** 0.5)
            maps = maps[:, -(side * side) :].transpose(1, 2).unflatten(2, (side, side))
        return maps

    def train(self, mode: bool = True) -> "FeatureExtractor":
        """Set the mode; a frozen network stays in evaluation."""
        return super().train(mode and not self.frozen)

    def parameter_lr_scales(self) -> Iterator[tuple[nn.Parameter, float]]:
        """Yield each parameter with the factor of its learning rate, in the network's order."""
        layers = [
            own
            for module in self.network.modules()
            if (own := list(module.parameters(recurse=False)))
        ]
        (first, last), steps = self.lr_scales, min(LR_STEPS, len(layers))
        for i, layer in enumerate(layers):
            scale = first * (last / first) ** (i * steps // len(layers) / max(steps - 1, 1))
            yield from ((parameter, scale) for parameter in layer)

    def freeze(self) -> None:
        """Stop the training of its parameters, where `frozen` asks for it."""
        if self.frozen:
            self.requires_grad_(False).eval()


class TorchvisionFeatures(FeatureExtractor):
    """A network of torchvision as a feature extractor.

    Args:
        network: its name there, for example googlenet, resnet50, vit_b_16 or convnext_tiny.
        node: where to stop, by torchvision's `get_graph_node_names`: inception5b, layer4,
            encoder.ln, features.
        weights: a name of torchvision's (IMAGENET1K_V1), which are downloaded; or a file of the
            network in torchvision's layout, .pth or .safetensors; from scratch when left out.
        frozen: whether nothing in it is trained.
        options: of the network's constructor.
        lr_scales: learning rates of its first and its last layer over that of other networks;
            0.01 and 0.1, for example, for trained weights.

    Raises:
        ValueError: where torchvision has not the network or the node, or the weights cannot be
            loaded or are another network's.

    Example:
        >>> network = TorchvisionFeatures("resnet18", "layer4")
        >>> network(torch.rand(2, 3, 64, 64)).shape
        torch.Size([2, 512, 2, 2])
    """

    def __init__(
        self,
        network: str,
        node: str,
        weights: str | None = None,
        frozen: bool = False,
        options: dict[str, Any] | None = None,
        lr_scales: tuple[float, float] = (1.0, 1.0),
    ) -> None:
        super().__init__(MEAN, STD, frozen, lr_scales)
        if network not in models.list_models():
            raise ValueError(
                f"torchvision has no network {network!r}; "
                f"it has {', '.join(models.list_models()[:8])}, ..."
            )
        built = models.get_model(network, **(options or {}))
        try:
            self.network = create_feature_extractor(built, {node: "map"})
        except ValueError as error:
            raise ValueError(
                f"{network} has no node {node!r}; "
                "for example layer4 of a resnet, inception5b of googlenet"
            ) from error
        if weights is not None:
            state = (
                read_weights(Path(weights))
                if Path(weights).suffix
                else _downloaded(network, weights)
            )
            load(self.network, state, weights)
        self.freeze()

    def features(self, image: Float[Tensor, "batch 3 height width"]) -> Tensor:
        maps: Tensor = self.network(image)["map"]
        return maps


class TimmFeatures(FeatureExtractor):
    """A network of timm as a feature extractor; needs the extra `timm`.

    Args:
        network: its name there.
        weights: "pretrained", which are downloaded; or a file in timm's layout, .pth or
            .safetensors; from scratch when left out.
        frozen: whether nothing in it is trained.
        options: of `timm.create_model`; `img_size: 448` for a vision transformer, for example.
        lr_scales: as in `TorchvisionFeatures`.

    Raises:
        ValueError: where timm is not installed, or the weights cannot be loaded or are another
            network's.

    Example:
        >>> network = TimmFeatures("vit_tiny_patch16_224", options={"depth": 1, "img_size": 64})
        >>> network(torch.rand(2, 3, 64, 64)).shape
        torch.Size([2, 192, 4, 4])
    """

    def __init__(
        self,
        network: str,
        weights: str | None = None,
        frozen: bool = False,
        options: dict[str, Any] | None = None,
        lr_scales: tuple[float, float] = (1.0, 1.0),
    ) -> None:
        try:
            import timm
        except ImportError as error:
            raise ValueError(
                "TimmFeatures needs timm; install it with: pip install 'stn-lightning[timm]'"
            ) from error
        try:
            built = timm.create_model(
                network, pretrained=weights == "pretrained", num_classes=0, **(options or {})
            )
        except (RuntimeError, OSError) as error:
            raise ValueError(
                f"timm cannot make {network!r} ({str(error).splitlines()[0]}); "
                "where there is no internet, give weights as a file, or none"
            ) from error
        config: Any = built.pretrained_cfg
        super().__init__(tuple(config["mean"]), tuple(config["std"]), frozen, lr_scales)
        self.network = built
        if weights is not None and weights != "pretrained":
            load(self.network, read_weights(Path(weights)), weights)
        self.freeze()

    def features(self, image: Float[Tensor, "batch 3 height width"]) -> Tensor:
        forward: Any = self.network.forward_features
        maps: Tensor = forward(image)
        return maps


def read_weights(path: Path) -> dict[str, Tensor]:
    """Read tensors by name from a .safetensors or .pth file.

    Of a .pth file nothing but tensors and plain values is read.

    Raises:
        ValueError: where the file is neither.
    """
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        state: Any = torch.load(path, map_location="cpu", weights_only=True)
        return {name: value for name, value in state.items() if isinstance(value, Tensor)}
    except Exception as error:  # of many kinds, all about the file
        raise ValueError(
            f"{path}: holds no weights that can be read ({type(error).__name__}); "
            "give a .pth or .safetensors file"
        ) from error


def load(network: nn.Module, state: Mapping[str, Tensor], source: str) -> None:
    """Load a network's weights; others in `state`, of a classifier, are left out.

    Raises:
        ValueError: where one is missing or has another shape.
    """
    own = network.state_dict()
    wrong = [
        name for name, value in own.items() if name not in state or state[name].shape != value.shape
    ]
    if wrong:
        raise ValueError(
            f"{source}: {len(wrong)} of {len(own)} tensors are missing or of another shape, "
            f"the first is {wrong[0]}; is it another network?"
        )
    network.load_state_dict({name: state[name] for name in own})


def _downloaded(network: str, weights: str) -> Mapping[str, Tensor]:
    kinds = models.get_model_weights(network)
    if weights not in kinds.__members__:
        raise ValueError(
            f"{network} has no weights {weights!r}; "
            f"torchvision has {', '.join(kinds.__members__)}, or give a file"
        )
    url = kinds[weights].url
    try:
        return torch.hub.load_state_dict_from_url(
            url, progress=False, check_hash=True, weights_only=True, map_location="cpu"
        )
    except (OSError, RuntimeError) as error:
        raise ValueError(
            f"{url} cannot be downloaded ({error}); "
            "copy it here by other means and give `weights` the file, or none"
        ) from error

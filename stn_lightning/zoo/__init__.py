"""Trained networks that come with the package.

    run = stn_lightning.load_run("zoo:quickstart")
    stn predict zoo:quickstart scan.png

The card `NAME.json` describes the network `NAME.safetensors`: its input and classes, the training
and its data, the record with the test error, and the licence.
"""

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from stn_lightning.runtime.atomic_files import atomic_write

__all__ = ["Card", "names", "read_card", "read_weights", "weights_path", "write"]

FOLDER = Path(__file__).parent
PREFIX = "zoo:"


@dataclass(frozen=True, kw_only=True)
class Card:
    """Description of a network in the zoo.

    Args:
        data: training data, with their licence.
        recipe: configuration files and options of the training.
        licence: licence of the weights, as an SPDX identifier.
        image_shape: (channels, height, width) of the network's input.
        class_names: class names in the order of the logits.
        record: the run's record: configuration, error, seed, commit, versions.
    """

    data: str
    recipe: str
    licence: str
    image_shape: list[int]
    class_names: list[str]
    record: dict[str, Any]


def names() -> list[str]:
    """Return the names of the zoo's networks.

    >>> all(read_card(name).licence for name in names())
    True
    """
    return sorted(path.stem for path in FOLDER.glob("*.json"))


def read_card(name: str) -> Card:
    """Read the card of a network.

    Raises:
        ValueError: there is no such network, or its card is damaged.
    """
    if name not in names():
        known = ", ".join(PREFIX + each for each in names()) or "none yet"
        raise ValueError(f"{PREFIX}{name}: no such network; there are: {known}")
    path = FOLDER / f"{name}.json"
    try:
        return Card(**json.loads(path.read_text()))
    except (ValueError, TypeError) as problem:
        raise ValueError(f"{path}: this is no card of a network ({problem})") from problem


def read_weights(name: str) -> dict[str, Tensor]:
    """Read the weights of a network.

    Raises:
        ValueError: the file is missing or damaged.
    """
    path = weights_path(name)
    try:
        return load(path.read_bytes())
    except (OSError, SafetensorError) as problem:
        raise ValueError(f"{path}: no weights can be read ({problem})") from problem


def weights_path(name: str) -> Path:
    """Return the file of a network's weights."""
    return FOLDER / f"{name}.safetensors"


def write(name: str, card: Card, weights: dict[str, Tensor]) -> None:
    """Write a network and its card."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    tensors = {key: value.detach().cpu().contiguous().clone() for key, value in weights.items()}
    with atomic_write(weights_path(name)) as file:
        file.write(save(tensors))
    with atomic_write(FOLDER / f"{name}.json") as file:
        text = json.dumps(dataclasses.asdict(card), indent=2, allow_nan=False)
        file.write(text.encode() + b"\n")

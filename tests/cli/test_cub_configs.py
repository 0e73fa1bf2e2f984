"""Every network and data file for birds builds and runs a step, and they pair freely."""

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from PIL import Image
from torchvision import models

from stn_lightning.backbones import trunks
from stn_lightning.cli.predict import predict
from tests.cli.conftest import CONFIGS, Stn
from tests.cub_miniature import CLASSES, gradient, write_cub

ONE_STEP = ("--trainer.fast_dev_run", "true", "--trainer.accelerator", "cpu", "--data.init_args.batch_size", "2")
SMALL = sorted(path.stem for path in (CONFIGS / "cub/networks").glob("small_*.yaml"))
SLOW = pytest.mark.slow  # four Inceptions at 448 px
PAPERS = [("cnn_224", "224"), *(pytest.param(*pair, marks=SLOW) for pair in (("st2_224", "224"), ("st2_448", "448"), ("st4_448", "448")))]


def step(stn: Stn, tmp_path: Path, network: str, data: str) -> tuple[int, str, str]:
    write_cub(tmp_path / "data/cub")
    files = ("--config", f"configs/cub/networks/{network}.yaml", "--config", f"configs/cub/data/{data}.yaml")
    return stn("fit", *files, *ONE_STEP, "--model.init_args.backbone.init_args.classes", str(CLASSES))


@pytest.mark.parametrize("network", SMALL)
def test_a_small_network_takes_a_step(network: str, stn: Stn, tmp_path: Path) -> None:
    code, out, err = step(stn, tmp_path, network, "20_classes")
    assert (code, err) == (0, "")
    assert f"training runs/{network}-20_classes" in out


@pytest.mark.parametrize(("network", "data"), PAPERS)
def test_a_network_of_table_3_takes_a_step(network: str, data: str, stn: Stn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With weights in the original layout, as they would be downloaded."""
    weights = models.get_model("googlenet", init_weights=False, aux_logits=True).state_dict()
    asked: list[str] = []

    def download(url: str, **_: Any) -> dict[str, torch.Tensor]:
        asked.append(url)
        return weights

    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", download)
    code, _, err = step(stn, tmp_path, network, data)
    assert (code, err) == (0, "")
    assert all("googlenet" in url for url in asked)
    assert asked


def test_without_a_network_a_line_says_what_to_do(stn: Stn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(network: str, weights: str) -> None:
        raise ValueError("weights could not be had; put them here by other means and give `weights` the file, or none")

    monkeypatch.setattr(trunks, "_downloaded", offline)
    code, _, err = step(stn, tmp_path, "cnn_224", "224")
    assert code == 2
    assert "give `weights` the file, or none" in err
    assert len(err.splitlines()) == 1


def test_the_papers_networks_differ_as_the_paper_says() -> None:
    def settings(name: str) -> dict[str, Any]:
        model: dict[str, Any] = yaml.safe_load((CONFIGS / f"cub/networks/{name}.yaml").read_text())["model"]["init_args"]
        return model

    cnn, two, close, four = (settings(name) for name in ("cnn_224", "st2_224", "st2_448", "st4_448"))
    assert "transformer" not in cnn
    crops = [model["transformer"]["init_args"]["n"] for model in (two, close, four)]
    assert crops == [model["backbone"]["init_args"]["crops"] for model in (two, close, four)] == [2, 2, 4]
    assert [model["transformer"]["init_args"]["localisation"]["init_args"]["shrink"] for model in (two, close, four)] == [1, 2, 2]
    for model in (two, close, four):
        assert model["transformer"]["init_args"]["size"] == [224, 224]
        assert model["transformer"]["init_args"]["family"]["init_args"]["scale"] == 0.5
        assert model["backbone"]["init_args"]["trunk"] == cnn["backbone"]["init_args"]["trunk"]


def test_the_tiles_differ_from_the_transformers_in_learning_where_to_look_alone() -> None:
    learnt, fixed = (yaml.safe_load((CONFIGS / f"cub/networks/small_{name}.yaml").read_text()) for name in ("st2", "tiles2"))
    assert fixed["model"]["init_args"].pop("localisation_rate") == 0
    assert learnt["model"]["init_args"].pop("localisation_rate") > 0
    assert learnt == fixed


def test_a_network_learns_from_a_folder_and_predicts_another(stn: Stn, tmp_path: Path) -> None:
    for name in ("finch", "wren"):
        (tmp_path / "data/photographs" / name).mkdir(parents=True)
        for i in range(30):
            Image.fromarray(gradient(40 + i, 50, 200 if name == "wren" else 20)).save(tmp_path / f"data/photographs/{name}/{i}.png")
    code, _, err = stn(
        "fit",
        "--config",
        "configs/folder/small_st2.yaml",
        "--trainer.accelerator=cpu",
        "--trainer.max_epochs=1",
        "--trainer.log_every_n_steps=1",
    )
    assert (code, err) == (0, "")
    assert predict(["small_st2", "data/photographs/wren", "--out", "answers.csv"]) == 0
    lines = (tmp_path / "answers.csv").read_text().splitlines()
    assert lines[0].startswith("file,label,probability,0.theta.00,")
    assert len(lines) == 31
    names = sorted(f"data/photographs/wren/{i}.png" for i in range(30))
    assert [line.split(",")[0] for line in lines[1:]] == names
    assert all(line.split(",")[1] in ("finch", "wren") for line in lines[1:])


def test_the_proof_takes_a_step(stn: Stn) -> None:
    code, _, err = stn("fit", "--config", "configs/cub/proof/st2.yaml", "--trainer.fast_dev_run", "true")
    assert (code, err) == (0, "")

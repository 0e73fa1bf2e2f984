"""Every network and data file for birds builds and runs a step, and they pair freely."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from PIL import Image
from torch import nn
from torchvision import models

from stn_lightning.analysis.predict import predict
from stn_lightning.backbones import feature_extractors
from stn_lightning.backbones.weights import NAMED
from stn_lightning.cli.typed_command import call
from stn_lightning.tasks import ClassificationTask
from stn_lightning.transformers import record_warps
from tests.cub_miniature import CLASSES, gradient, write_cub
from tests.stn_command import CONFIGS, Stn
from tests.weights_package import write_weights_package

ONE_STEP = (
    "--trainer.fast_dev_run",
    "true",
    "--trainer.accelerator",
    "cpu",
    "--data.init_args.batch_size",
    "2",
)
ONE_EPOCH = (
    "--trainer.max_epochs",
    "1",
    "--trainer.log_every_n_steps",
    "1",
    "--trainer.accelerator",
    "cpu",
)
SMALL = sorted(path.stem for path in (CONFIGS / "cub/networks").glob("small_*.yaml"))
SLOW = pytest.mark.slow  # four Inceptions at 448 px
PAPERS = [("cnn_224", "224"), ("st2_224", "224"), ("st2_448", "448"), ("st4_448", "448")]


def step(stn: Stn, tmp_path: Path, network: str, data: str) -> tuple[int, str, str]:
    write_cub(tmp_path / "data/cub")
    files = (
        "--config",
        f"configs/cub/networks/{network}.yaml",
        "--config",
        f"configs/cub/data/{data}.yaml",
    )
    return stn(
        "fit", *files, *ONE_STEP, "--model.init_args.backbone.init_args.num_classes", str(CLASSES)
    )


@pytest.mark.parametrize("network", SMALL)
def test_a_small_network_takes_a_step(network: str, stn: Stn, tmp_path: Path) -> None:
    code, out, err = step(stn, tmp_path, network, "20_classes")
    assert (code, err) == (0, "")
    assert f"training runs/{network}-20_classes" in out


def test_a_small_network_learns_in_bfloat16_with_gradients_of_two_batches(
    stn: Stn, tmp_path: Path
) -> None:
    write_cub(tmp_path / "data/cub")
    files = [
        part
        for name in ("cub/networks/small_st2", "cub/data/20_classes", "hardware/bf16")
        for part in ("--config", f"configs/{name}.yaml")
    ]
    few = (
        "--data.init_args.batch_size",
        "2",
        "--model.init_args.backbone.init_args.num_classes",
        str(CLASSES),
    )
    code, _, err = stn("fit", *files, *few, *ONE_EPOCH, "--trainer.accumulate_grad_batches", "2")
    assert (code, err) == (0, "")


class Inception(nn.Module):
    """As much of torchvision's as a trunk needs: one node, and a classifier after it."""

    def __init__(self) -> None:
        super().__init__()
        self.inception5b = nn.Conv2d(3, 4, 32, 32)
        self.fc = nn.Linear(4, 1000)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.fc(self.inception5b(image).mean((2, 3)))
        return logits


@pytest.mark.parametrize(
    "small", [True, pytest.param(False, marks=SLOW)]
)  # five real Inceptions at 448 px
@pytest.mark.parametrize(("network", "data"), PAPERS)
def test_a_network_of_table_3_takes_a_step(
    network: str, data: str, small: bool, stn: Stn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With weights in the original layout, as they would be downloaded; in the fast tests of an
    Inception of one layer.
    """
    if small:
        monkeypatch.setattr(models, "get_model", lambda *_, **__: Inception())
    weights = (
        Inception().state_dict()
        if small
        else models.get_model("googlenet", init_weights=False, aux_logits=True).state_dict()
    )
    asked: list[str] = []

    def download(url: str, **_: Any) -> dict[str, torch.Tensor]:
        asked.append(url)
        return weights

    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", download)
    code, _, err = step(stn, tmp_path, network, data)
    assert (code, err) == (0, "")
    assert all("googlenet" in url for url in asked)
    assert len(asked) == (1 if network == "cnn_224" else 2), (
        "the localisation's and the streams', which begin as copies of one"
    )


def test_without_a_network_a_line_says_what_to_do(
    stn: Stn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def offline(network: str, weights: str) -> None:
        raise ValueError(
            "weights could not be had; put them here by other means and give `weights` the file, "
            "or none"
        )

    monkeypatch.setattr(feature_extractors, "_downloaded", offline)
    code, _, err = step(stn, tmp_path, "cnn_224", "224")
    assert code == 2
    assert "give `weights` the file, or none" in err
    assert len(err.splitlines()) == 1


def test_the_papers_networks_differ_as_the_paper_says() -> None:
    def settings(name: str) -> dict[str, Any]:
        model: dict[str, Any] = yaml.safe_load((CONFIGS / f"cub/networks/{name}.yaml").read_text())[
            "model"
        ]["init_args"]
        return model

    cnn, two, close, four = (
        settings(name) for name in ("cnn_224", "st2_224", "st2_448", "st4_448")
    )
    assert "transformer" not in cnn
    crops = [model["transformer"]["init_args"]["num_transformers"] for model in (two, close, four)]
    assert (
        crops
        == [model["backbone"]["init_args"]["num_crops"] for model in (two, close, four)]
        == [2, 2, 4]
    )
    assert [
        model["transformer"]["init_args"]["localisation"]["init_args"]["shrink"]
        for model in (two, close, four)
    ] == [1, 2, 2]
    for model in (two, close, four):
        assert model["transformer"]["init_args"]["size"] == [224, 224]
        assert model["transformer"]["init_args"]["family"]["init_args"]["scale"] == 0.5
        assert (
            model["backbone"]["init_args"]["feature_extractor"]
            == cnn["backbone"]["init_args"]["feature_extractor"]
        )


def test_the_tiles_differ_from_the_transformers_in_learning_where_to_look_alone() -> None:
    learnt, fixed = (
        yaml.safe_load((CONFIGS / f"cub/networks/small_{name}.yaml").read_text())
        for name in ("st2", "tiles2")
    )
    assert fixed["model"]["init_args"].pop("localisation_lr_scale") == 0
    assert learnt["model"]["init_args"].pop("localisation_lr_scale") > 0
    assert learnt == fixed


HALF = sorted(p.stem for p in (CONFIGS / "cub/half_scale").glob("*.yaml") if p.stem != "cub")


@pytest.mark.parametrize("network", HALF)
def test_a_row_at_half_scale_takes_a_step_from_a_packages_weights(
    network: str, stn: Stn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_cub(tmp_path / "data/cub")
    write_weights_package(tmp_path / "packages", monkeypatch)
    files = [f"--config=configs/cub/half_scale/{name}.yaml" for name in (network, "cub")]
    classes = f"--model.init_args.backbone.init_args.classifier.init_args.num_classes={CLASSES}"
    code, _, err = stn("fit", *files, *ONE_STEP, classes)
    assert (code, err) == (0, "")


def half_scale(
    network: str, recipe: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> list[str]:
    """Options of a row with a recipe, on a miniature of the data."""
    write_cub(folder / "data/cub")
    write_weights_package(folder / "packages", monkeypatch)
    names = [f"half_scale/{network}", "half_scale/cub", f"recipes/{recipe}"]
    classes = f"--model.init_args.backbone.init_args.classifier.init_args.num_classes={CLASSES}"
    return [*(f"--config=configs/cub/{name}.yaml" for name in names), classes]


@pytest.mark.parametrize("network", ["cnn_112", "st2"])
def test_a_whole_network_takes_a_step(
    network: str, stn: Stn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = half_scale(network, "whole_network", tmp_path, monkeypatch)
    moved: list[bool] = []

    def watch(self: ClassificationTask) -> None:
        moved.append(all(p.requires_grad for p in self.backbone.get_submodule("stem").parameters()))

    monkeypatch.setattr(ClassificationTask, "on_train_start", watch)
    code, _, err = stn("fit", *options, *ONE_STEP)
    assert (code, err) == (0, "")
    assert moved == [True]


def test_large_crops_cover_nine_of_fourteen_pixels_of_the_maps(
    stn: Stn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = half_scale("st2", "large_crops", tmp_path, monkeypatch)
    grids: list[torch.Tensor] = []

    def watch(self: ClassificationTask) -> None:
        with record_warps(self.backbone) as records:
            self.backbone(torch.rand(1, 3, 224, 224))
        grids.extend(record.grids for record in records)

    monkeypatch.setattr(ClassificationTask, "on_train_end", watch)
    code, _, err = stn("fit", *options, *ONE_STEP)
    assert (code, err) == (0, "")
    (grid,) = grids
    assert grid.shape == (1, 2, 9, 9, 2)
    # pixels of the crop are as far apart as those of the maps
    for steps in (grid.diff(dim=3)[..., 0], grid.diff(dim=2)[..., 1]):
        torch.testing.assert_close(steps, torch.full_like(steps, 2 / 14))


def test_large_crops_are_refused_by_a_row_without_transformers(
    stn: Stn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = half_scale("cnn_112", "large_crops", tmp_path, monkeypatch)
    code, _, err = stn("fit", *options, *ONE_STEP)
    expected = "model.backbone.transformer: Option 'family.init_args.scale' is not accepted\n"
    assert (code, err) == (2, f"stn fit: {expected}")


def test_the_small_network_stands_in_for_the_papers(
    stn: Stn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_cub(tmp_path / "data/cub")
    write_weights_package(tmp_path / "packages", monkeypatch)
    names = ["networks/st2_224", "data/224", "recipes/lite0"]
    files = [f"--config=configs/cub/{name}.yaml" for name in names]
    classes = f"--model.init_args.backbone.init_args.num_classes={CLASSES}"
    code, _, err = stn("fit", *files, *ONE_STEP, classes)
    assert (code, err) == (0, "")


def test_the_papers_network_stands_in_for_the_small_one(
    stn: Stn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_cub(tmp_path / "data/cub")
    state = models.get_model("googlenet", init_weights=False, aux_logits=False).state_dict()
    monkeypatch.setattr(feature_extractors, "_downloaded", lambda *_: state)
    names = ["half_scale/st2", "half_scale/cub", "recipes/googlenet"]
    files = [f"--config=configs/cub/{name}.yaml" for name in names]
    classes = f"--model.init_args.backbone.init_args.classifier.init_args.num_classes={CLASSES}"
    code, _, err = stn("fit", *files, *ONE_STEP, classes)
    assert (code, err) == (0, "")


def test_a_pretrained_network_takes_a_step_on_a_folder(
    stn: Stn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_weights_package(tmp_path / "packages", monkeypatch)
    for name in ("finch", "wren"):
        (tmp_path / "data/images" / name).mkdir(parents=True)
        for i in range(30):
            image = Image.fromarray(gradient(40 + i, 50, 200 if name == "wren" else 20))
            image.save(tmp_path / f"data/images/{name}/{i}.png")
    small = ("--data.init_args.size=64", "--data.init_args.side=64")
    code, _, err = stn("fit", "--config=configs/image_folder/pretrained.yaml", *ONE_STEP, *small)
    assert (code, err) == (0, "")


def test_without_the_weights_package_a_line_says_what_to_install(
    stn: Stn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_cub(tmp_path / "data/cub")
    absent = NAMED["lite0"]._replace(source="package:not_there_weights/a.pth")
    monkeypatch.setitem(NAMED, "lite0", absent)
    files = [f"--config=configs/cub/half_scale/{name}.yaml" for name in ("st2", "cub")]
    code, _, err = stn("fit", *files, *ONE_STEP)
    assert code == 2
    assert "pip install 'stn-lightning[birds]'" in err
    assert len(err.splitlines()) == 1


def test_rows_at_half_scale_differ_in_what_the_classifier_sees_alone() -> None:
    rows = {
        name: yaml.safe_load((CONFIGS / f"cub/half_scale/{name}.yaml").read_text()) for name in HALF
    }
    assert len(rows) == 12
    for name, row in rows.items():
        task = row["model"]["init_args"]
        backbone = task["backbone"]["init_args"]
        transformer = backbone.pop("transformer", {"init_args": {"num_transformers": 0}})
        crops = transformer["init_args"]["num_transformers"] + backbone.pop("global_view")
        assert backbone["classifier"]["init_args"].pop("num_crops") == max(crops, 1)
        moves = task.pop("localisation_lr_scale", 0) > 0
        assert moves == name.startswith("st")
        assert (task.pop("out_of_bounds_penalty", 0) > 0) == moves
        task.pop("overlap_penalty", None)
    assert all(row == rows["cnn_112"] for row in rows.values())


def test_a_network_learns_from_a_folder_and_predicts_another(stn: Stn, tmp_path: Path) -> None:
    for name in ("finch", "wren"):
        (tmp_path / "data/images" / name).mkdir(parents=True)
        for i in range(30):
            Image.fromarray(gradient(40 + i, 50, 200 if name == "wren" else 20)).save(
                tmp_path / f"data/images/{name}/{i}.png"
            )
    code, _, err = stn(
        "fit",
        "--config",
        "configs/image_folder/small_st2.yaml",
        "--trainer.accelerator=cpu",
        "--trainer.max_epochs=1",
        "--trainer.log_every_n_steps=1",
    )
    assert (code, err) == (0, "")
    assert call(predict, ["small_st2", "data/images/wren", "--out", "answers.csv"]) == 0
    lines = (tmp_path / "answers.csv").read_text().splitlines()
    assert lines[0].startswith("file,label,probability,0.theta.00,")
    assert len(lines) == 31
    names = sorted(f"data/images/wren/{i}.png" for i in range(30))
    assert [line.split(",")[0] for line in lines[1:]] == names
    assert all(line.split(",")[1] in ("finch", "wren") for line in lines[1:])


PROOF = sorted(
    path.stem for path in (CONFIGS / "digit_pairs").glob("*.yaml") if path.stem != "data"
)


@pytest.mark.parametrize("network", PROOF)
def test_a_network_of_the_proof_takes_a_step(network: str, stn: Stn) -> None:
    files = (
        "--config",
        f"configs/digit_pairs/{network}.yaml",
        "--config",
        "configs/digit_pairs/data.yaml",
    )
    code, _, err = stn("fit", *files, "--trainer.fast_dev_run", "true")
    assert (code, err) == (0, "")


def test_networks_of_the_proof_differ_in_their_transformers_alone() -> None:
    models = {
        name: yaml.safe_load((CONFIGS / f"digit_pairs/{name}.yaml").read_text()) for name in PROOF
    }
    assert sorted(models) == ["cnn", "st1", "st2", "st2_apart"]
    assert models["st2_apart"]["model"]["init_args"].pop("overlap_penalty") > 0
    assert models["st2_apart"] == models["st2"]
    for name, n in (("st1", 1), ("st2", 2)):
        transformer = models[name]["model"]["init_args"]["transformer"]["init_args"]
        assert (
            transformer.pop("num_transformers")
            == transformer["localisation"]["init_args"].pop("num_maps")
            == n
        )
        assert models[name]["model"]["init_args"]["backbone"]["init_args"].pop("num_crops") == n
    assert models["st1"] == models["st2"]
    assert models["st2"]["model"]["init_args"].pop("transformer")
    assert models["st2"]["model"]["init_args"].pop("localisation_lr_scale")
    assert models["st2"] == models["cnn"]


@pytest.mark.slow
def test_two_transformers_learn_a_part_each_from_class_labels_alone(
    stn: Stn, tmp_path: Path
) -> None:
    """Seed 0 finds both parts or one, by the order of sums: docs/log.md."""
    files = (
        "--config",
        "configs/digit_pairs/st2_apart.yaml",
        "--config",
        "configs/digit_pairs/data.yaml",
    )
    code, _, err = stn("fit", *files, "--seed_everything", "1", "--name", "proof")
    assert (code, err) == (0, "")
    found = torch.tensor(
        json.loads((tmp_path / "runs/proof/parts.json").read_text())["contained"]
    )  # transformers, parts
    assert max(found.diagonal().min(), found.flip(1).diagonal().min()) > 0.9
    assert (
        json.loads((tmp_path / "runs/proof/results.json").read_text())["metrics"]["test/error"] < 5
    )

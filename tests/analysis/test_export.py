"""A run's network in files that other programs read; the how-to's examples, run as they stand."""

import dataclasses
import importlib.util
import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from stn_lightning import load_run
from stn_lightning.analysis import export as export_module
from stn_lightning.analysis.export import ONNX, WRITERS, Format, Writer, export
from stn_lightning.cli.typed_command import call
from stn_lightning.datamodules.preprocessing import Preprocessing
from stn_lightning.runs.loading import Network
from tests.mnist_miniature import write_mnist
from tests.stn_command import CONFIGS, Stn

PAGE = Path(__file__).parents[2] / "docs/export.md"
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
HAS_ONNX = all(importlib.util.find_spec(name) for name in ONNX)
NEEDS_ONNX = pytest.mark.skipif(
    not HAS_ONNX, reason="ONNX is not installed: pip install stn-lightning[export]"
)


@pytest.fixture(scope="module")
def exported(small_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("export")
    formats = ["safetensors", "exported", *(["onnx"] if HAS_ONNX else [])]
    assert call(export, [str(small_run), "--out", str(folder), "--formats", *formats]) == 0
    return folder


@pytest.mark.parametrize(
    "name", ["exported", pytest.param("onnx", marks=NEEDS_ONNX), "safetensors"]
)
def test_the_how_to_runs_as_it_stands(
    name: Format,
    exported: Path,
    small_run: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(exported)
    code = BLOCKS[["exported", "onnx", "safetensors"].index(name)]
    assert WRITERS[name].file in code
    known: dict[str, object] = {}
    exec(code.replace("num_filters=32", "num_filters=8"), known)
    if name == "safetensors":
        network, run = known["network"], load_run(small_run)
        image = torch.rand(3, 1, 42, 42)
        assert isinstance(network, torch.nn.Module)
        torch.testing.assert_close(network(image), run.infer(image)[0].clone(), rtol=0, atol=1e-5)
        assert len(known["theta"]) == 7  # type: ignore[arg-type]
    else:
        assert capsys.readouterr().out.count("'") == 14
        assert "stn_lightning" not in code


def test_about_says_what_goes_in_and_what_comes_out(exported: Path) -> None:
    about = json.loads((exported / "about.json").read_text())
    assert about["image_shape"] == [1, 42, 42]
    assert about["classes"] == list("0123456789")
    assert "test/error" in about["metrics"]


def write_images(folder: Path) -> list[Path]:
    """Write scans of dark ink on light paper, large and small, upright and not, opaque and not."""
    folder.mkdir()
    image = Image.effect_noise((200, 160), 60)
    exif = Image.Exif()
    exif[274] = 6  # lies on its side
    ImageDraw.Draw(image).line([(40, 20), (60, 140), (120, 90)], fill=0, width=14)
    image.save(folder / "grey.jpg", quality=90)
    image.convert("RGB").save(folder / "turned.jpg", quality=90, exif=exif)
    image.resize((30, 25)).save(folder / "small.png")
    grey = (np.asarray(image).astype(np.uint16) * 257)[:, ::-1].copy()
    Image.fromarray(grey).save(folder / "16_bits.png")
    paper = Image.new("RGB", (150, 120), (240, 230, 0))  # no blue at all
    ImageDraw.Draw(paper).line([(40, 20), (60, 100)], fill=(50, 40, 0), width=9)
    paper.paste((190, 180, 0), (0, 0, 20, 120))  # a shade
    paper.save(folder / "yellow.png")
    transparent = Image.new("RGBA", (90, 70))
    ImageDraw.Draw(transparent).line([(20, 10), (60, 60)], fill=(30, 0, 90, 255), width=9)
    transparent.save(folder / "transparent.png")
    return sorted(folder.iterdir())


def preprocess_module(folder: Path, code: str) -> Any:
    (folder / "preprocess.py").write_text(code)
    specification = importlib.util.spec_from_file_location("p", folder / "preprocess.py")
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("preprocessing", "shape"),
    [
        (Preprocessing("fit", invert_light=True), (1, 42, 42)),
        (Preprocessing("fit"), (3, 40, 50)),
        (Preprocessing("stretch", subtract_mean=True), (3, 64, 64)),
        (Preprocessing("crop", side=36), (3, 32, 32)),
    ],
)
def test_the_exported_preprocessing_gives_the_runs_pixels(
    preprocessing: Preprocessing,
    shape: tuple[int, int, int],
    small_run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run = load_run(small_run)
    monkeypatch.setattr(type(run.data), "preprocessing", preprocessing)
    run = dataclasses.replace(run, image_shape=shape)
    code = export_module.preprocess_code(run)
    assert code is not None
    exported = preprocess_module(tmp_path, code)
    for path in write_images(tmp_path / "images"):
        expected = run.preprocess(path)[None]
        assert expected.std() > 0.01
        actual = torch.from_numpy(exported.preprocess(str(path)))
        torch.testing.assert_close(actual, expected, rtol=0, atol=1.01 / 255)


@NEEDS_ONNX
def test_onnx_on_a_jpeg_gives_the_label_of_stn_predict(
    exported: Path, small_run: Path, tmp_path: Path
) -> None:
    paths = list(map(str, write_images(tmp_path / "images")))
    command = [sys.executable, str(exported / "preprocess.py"), *paths]
    answer = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path)
    labels = [prediction.label for prediction in load_run(small_run).predict(paths)]
    assert [line.rsplit(" ", 1) for line in answer.stdout.splitlines()] == [
        [path, label] for path, label in zip(paths, labels, strict=True)
    ]


@pytest.mark.parametrize(
    ("name", "error"),
    [("safetensors", 2e-5), ("exported", 2e-5), pytest.param("onnx", 1e-4, marks=NEEDS_ONNX)],
)
def test_a_file_that_does_not_agree_is_not_written(
    name: Format,
    error: float,
    small_run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    file, write, read = WRITERS[name]

    def read_wrong(network: Network, content: bytes) -> Callable[[Tensor], Tensor]:
        logits = read(network, content)
        return lambda image: logits(image) + error * logits(image).abs().max().clamp(min=1)

    monkeypatch.setitem(WRITERS, name, Writer(file, write, read_wrong))
    assert call(export, [str(small_run), "--out", str(tmp_path), "--formats", name]) == 2
    assert f"{file} is not written: its logits differ from the run's by" in capsys.readouterr().err
    assert not (tmp_path / file).exists()


def test_without_onnx_the_other_formats_are_written_and_a_line_says_what_to_install(
    small_run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    assert call(export, [str(small_run), "--out", str(tmp_path)]) == 0
    assert capsys.readouterr().out.endswith(
        "not written: ONNX needs onnx, onnxscript, onnxruntime; "
        "pip install 'stn-lightning[export]'\n"
    )
    written = {path.name for path in tmp_path.iterdir()}
    assert {"weights.safetensors", "network.pt2", "preprocess.py"} <= written
    assert not (tmp_path / "network.onnx").exists()


def test_onnx_that_is_asked_for_and_cannot_be_written_is_an_error(
    small_run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    assert call(export, [str(small_run), "--out", str(tmp_path), "--formats", "onnx"]) == 2
    assert "pip install 'stn-lightning[export]'" in capsys.readouterr().err


@pytest.mark.slow
@NEEDS_ONNX
@pytest.mark.parametrize(
    "network", sorted(path.stem for path in (CONFIGS / "mnist/networks").glob("*.yaml"))
)
def test_every_network_of_the_paper_is_exported_in_every_format(
    network: str, stn: Stn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_mnist(tmp_path / "data/mnist", monkeypatch)
    files = (
        "--config",
        f"configs/mnist/networks/{network}.yaml",
        "--config",
        "configs/mnist/data/rts.yaml",
    )
    options = (
        "--name",
        "one",
        "--trainer.max_epochs",
        "1",
        "--trainer.accelerator",
        "cpu",
        "--trainer.log_every_n_steps",
        "1",
    )
    assert stn("fit", *files, *options)[0] == 0
    assert call(export, ["one"]) == 0


def test_a_network_that_answers_nan_is_not_exported(
    small_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = load_run(small_run)
    layer = next(m for m in run.task.backbone.modules() if isinstance(m, torch.nn.Linear))
    with torch.no_grad():
        layer.bias.fill_(torch.inf)
    with pytest.raises(ValueError, match=r"safetensors is not written: its logits differ .* nan"):
        run.export(tmp_path, ["safetensors"])
    assert not (tmp_path / "weights.safetensors").exists()


def test_the_folder_of_a_run_is_not_written_over(
    small_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "other/checkpoints").mkdir(parents=True)
    (tmp_path / "other/config.yaml").write_text("seed_everything: 1\n")
    (tmp_path / "other/about.json").write_text("{}")  # somebody else's
    assert call(export, [str(small_run), "--out", str(tmp_path / "other")]) == 2
    assert "other/config.yaml is not of an export" in capsys.readouterr().err
    assert (tmp_path / "other/config.yaml").read_text() == "seed_everything: 1\n"

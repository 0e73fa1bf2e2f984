"""A run's network in files that other programs read; the how-to's examples, run as they stand."""

import importlib.util
import json
import re
from pathlib import Path

import pytest
import torch

from stn_lightning import load_run
from stn_lightning.analysis import export as module
from stn_lightning.analysis.export import ONNX, WRITERS, Format, Writer, export
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
    assert export([str(small_run), "--out", str(folder), "--formats", *formats]) == 0
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
    exec(code.replace("filters=64", "filters=8"), known)
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


def test_a_file_that_does_not_agree_is_not_written(
    small_run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    write, read = module._write_safetensors, module._read_safetensors
    monkeypatch.setitem(
        WRITERS,
        "safetensors",
        Writer("weights.safetensors", write, lambda n, c: lambda image: read(n, c)(image) + 1e-3),
    )
    assert export([str(small_run), "--out", str(tmp_path), "--formats", "safetensors"]) == 2
    assert (
        "weights.safetensors is not written: it differs from the run by" in capsys.readouterr().err
    )
    assert not (tmp_path / "weights.safetensors").exists()


def test_without_onnx_one_line_says_what_to_install(
    small_run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    assert export([str(small_run), "--out", str(tmp_path), "--formats", "onnx"]) == 2
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
    assert export(["one"]) == 0

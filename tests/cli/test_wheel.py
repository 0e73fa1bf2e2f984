"""What is installed holds all that is needed: the command, the configurations, the types."""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import time
import urllib.request
import venv
import zipfile
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import pytest
import yaml
from PIL import Image, ImageDraw

from stn_lightning.cli.typed_command import call
from stn_lightning.launch.table import table
from stn_lightning.runs import shipped_configs
from tests.pages import REPOSITORY
from tests.stn_command import CONFIGS, Stn


def test_a_shipped_file_is_found_where_there_is_none_of_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    name = Path("configs/quickstart.yaml")
    assert (
        shipped_configs.resolve_config(name).read_text()
        == (CONFIGS / "quickstart.yaml").read_text()
    )
    for nothing in (
        Path("quickstart.yaml"),
        Path("configs/quickstart.yml"),
        tmp_path / "configs/quickstart.yaml",
    ):
        assert shipped_configs.resolve_config(nothing) == nothing
    name.parent.mkdir()
    name.write_text("mine")
    assert shipped_configs.resolve_config(name) == name


def test_stn_fit_and_stn_table_work_in_a_folder_without_configurations(
    stn: Stn, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "configs").unlink()
    files = ("--config", "configs/quickstart.yaml", "--config=configs/hardware/cpu.yaml")
    code, out, err = stn("fit", *files, "--trainer.fast_dev_run", "true")
    assert (code, err) == (0, "")
    assert "training runs/quickstart-cpu" in out
    assert (
        call(table, ["configs/tables/mnist.yaml", "--dry-run", "--rows", "CNN", "--columns", "RTS"])
        == 0
    )
    assert capsys.readouterr().out.startswith(
        "stn fit --config configs/mnist/networks/cnn.yaml --config configs/mnist/data/rts.yaml"
    )


def test_a_script_beside_the_clone_imports_the_package(tmp_path: Path) -> None:
    """There the clone's folder has the package's name, and is none."""
    (tmp_path / "stn_lightning").mkdir()
    script = tmp_path / "script.py"
    script.write_text("import stn_lightning; print(stn_lightning.__version__)")
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, cwd=tmp_path)
    assert (done.returncode, done.stdout.strip()) == (0, version("stn_lightning")), done.stderr


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy, as a build leaves folders behind."""
    if int(version("setuptools").split(".")[0]) < 77:
        pytest.skip(
            "the build needs setuptools 77 or newer, and a package index if it is not there"
        )
    folder = tmp_path_factory.mktemp("wheel")
    for name in ("stn_lightning", "configs"):
        shutil.copytree(
            REPOSITORY / name,
            folder / "source" / name,
            symlinks=True,
            ignore=shutil.ignore_patterns("__pycache__"),
        )
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(REPOSITORY / name, folder / "source")
    build = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--no-deps",
        "--no-build-isolation",
        "--wheel-dir",
        str(folder),
        str(folder / "source"),
    ]
    subprocess.run(build, check=True, capture_output=True)
    (made,) = folder.glob("*.whl")
    return made


@pytest.mark.slow
def test_the_wheel_holds_every_module_every_configuration_and_the_types(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    package = REPOSITORY / "stn_lightning"
    expected = {
        f"stn_lightning/{path.relative_to(package)}"
        for path in package.rglob("*.*")
        if path.suffix in (".py", ".html", ".typed", ".json", ".safetensors")
    }
    expected |= {
        f"stn_lightning/configs/{path.relative_to(CONFIGS)}" for path in CONFIGS.rglob("*.yaml")
    }
    assert {name for name in names if ".dist-info/" not in name} == expected


class Installed(NamedTuple):
    """The wheel in an environment of its own, which borrows PyTorch and the rest from here."""

    programs: Path
    packages: Path
    work: Path

    def start(self, program: str, *arguments: str) -> subprocess.Popen[str]:
        hidden = ("PYTHONPATH", "STN_DATA")
        environment = {name: value for name, value in os.environ.items() if name not in hidden}
        return subprocess.Popen(
            [str(self.programs / program), *arguments],
            cwd=self.work,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, program: str, *arguments: str) -> str:
        process = self.start(program, *arguments)
        out, err = process.communicate()
        assert process.returncode == 0, err
        return out


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Installed:
    folder = tmp_path_factory.mktemp("installed")
    home, work = folder / "venv", folder / "work"
    venv.create(home, with_pip=False)
    packages = home / f"lib/python{sysconfig.get_python_version()}/site-packages"
    (packages / "lent.pth").write_text(sysconfig.get_path("purelib") + "\n")
    pip = [sys.executable, "-m", "pip", "--python", str(home), "install", "--no-index"]
    options = ["--no-deps", "--ignore-installed", str(wheel)]
    subprocess.run([*pip, *options], check=True, capture_output=True)
    work.mkdir()
    return Installed(home / "bin", packages, work)


@pytest.mark.slow
def test_an_installed_wheel_trains_in_an_empty_folder(installed: Installed) -> None:
    about = installed.run("stn", "--version").splitlines()
    assert f"installed in {installed.packages / 'stn_lightning'}" in about
    assert not [line for line in about if line.startswith("commit")]
    (installed.work / "mine.py").write_text(
        "from stn_lightning.backbones import CNN\n\n\nclass Mine(CNN): ...\n"
    )
    (installed.work / "mine.yaml").write_text(
        "model: {init_args: {backbone: {class_path: mine.Mine, init_args: {num_filters: 8}}}}\n"
    )
    files = ("--config", "configs/quickstart.yaml", "--config", "mine.yaml")
    said = installed.run("stn", "fit", *files, *MOMENT)
    assert "run folder runs/quickstart-mine" in said
    config = yaml.safe_load((installed.work / "runs/quickstart-mine/config.yaml").read_text())
    assert config["model"]["init_args"]["backbone"]["class_path"] == "mine.Mine"


MOMENT = (
    "--trainer.max_epochs=1",
    "--trainer.limit_train_batches=1",
    "--trainer.log_every_n_steps=1",
)
THREE_LINES = """\
import stn_lightning
run = stn_lightning.load_run("zoo:quickstart")
(answer,) = run.predict(["scan.jpg"])
import json
crops = [{"theta": crop.theta, "corners": crop.corners} for crop in answer.crops]
print(json.dumps([answer.label, answer.probability, crops]))
"""


@pytest.mark.slow
def test_three_lines_of_an_installed_wheel_predict_an_image_as_the_command_does(
    installed: Installed,
) -> None:
    seven = Image.new("RGB", (200, 160), "white")
    ImageDraw.Draw(seven).line((60, 40, 120, 40, 85, 120), "navy", 12)
    seven.rotate(20, fillcolor="white").save(installed.work / "scan.jpg")
    label, probability, crops = json.loads(installed.run("python", "-c", THREE_LINES))
    installed.run("stn", "predict", "zoo:quickstart", "scan.jpg", "--out", "answers.jsonl")
    said = json.loads((installed.work / "answers.jsonl").read_text())
    assert (said["label"], said["probability"]) == (label, probability)
    assert said["crops"] == crops
    assert label == "7"


@pytest.mark.slow
def test_the_demo_of_an_installed_wheel_answers_without_a_training(installed: Installed) -> None:
    begin = time.monotonic()
    process = installed.start("stn", "demo", "--port", "0")
    try:
        assert process.stdout is not None
        assert process.stdout.readline().startswith("loading")
        address = process.stdout.readline().partition(" on ")[2].split()[0]
        request = urllib.request.Request(f"{address}draw", bytes(42 * 42), method="POST")
        with urllib.request.urlopen(request) as reply:
            answer = json.load(reply)
    finally:
        process.terminate()
        process.communicate()
    assert time.monotonic() - begin < 300
    assert len(answer["classes"]) == 10
    assert len(answer["outlines"]) == len(answer["crops"]) == 1


FEW = """\
from stn_lightning.datasets import EmbeddedDigits, ImageTensorDataset, ImageTensorSource


class Few(ImageTensorSource):
    def __init__(self, number: int) -> None:
        self.class_names = tuple("0123456789")[:number]

    def load(self, split):
        image, label = EmbeddedDigits().load(split)
        kept = label < len(self.class_names)
        return ImageTensorDataset(image[kept], label[kept])
"""


@pytest.mark.slow
def test_a_network_of_three_classes_goes_on_with_four(installed: Installed) -> None:
    (installed.work / "few.py").write_text(FEW)

    def fit(number: int, weights: str) -> str:
        options = ("--name", f"few{number}", "--init_weights", weights, *MOMENT)
        source = f"--data.init_args.source.init_args.number={number}"
        files = ("--config", "configs/quickstart.yaml", "--data.init_args.source=few.Few", source)
        return installed.run("stn", "fit", *files, *options)

    left = "not copied: of another shape: backbone.classifier."
    for number, weights in ((3, "zoo:quickstart"), (4, "few3")):
        said = fit(number, weights)
        assert f"weights of {weights}" in said
        assert said.count(left) == 1
        assert "test error" in said

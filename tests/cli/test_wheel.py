"""What is installed holds all that is needed: the command, the configurations, the types."""

import os
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from importlib.metadata import version
from pathlib import Path

import pytest
import yaml

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
        if path.suffix in (".py", ".html", ".typed")
    }
    expected |= {
        f"stn_lightning/configs/{path.relative_to(CONFIGS)}" for path in CONFIGS.rglob("*.yaml")
    }
    assert {name for name in names if ".dist-info/" not in name} == expected


@pytest.mark.slow
def test_an_installed_wheel_trains_in_an_empty_folder(wheel: Path, tmp_path: Path) -> None:
    home, work = tmp_path / "venv", tmp_path / "work"
    venv.create(home, with_pip=False)
    packages = home / f"lib/python{sysconfig.get_python_version()}/site-packages"
    (packages / "lent.pth").write_text(
        sysconfig.get_path("purelib") + "\n"
    )  # PyTorch and the rest, as they are here
    install = [
        sys.executable,
        "-m",
        "pip",
        "--python",
        str(home),
        "install",
        "--no-deps",
        "--no-index",
        "--ignore-installed",
        str(wheel),
    ]
    subprocess.run(install, check=True, capture_output=True)
    work.mkdir()
    environment = {
        name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "STN_DATA")
    }

    def stn(*arguments: str) -> str:
        command = [str(home / "bin/stn"), *arguments]
        return subprocess.run(
            command, cwd=work, env=environment, check=True, capture_output=True, text=True
        ).stdout

    about = stn("--version").splitlines()
    assert f"installed in {packages / 'stn_lightning'}" in about
    assert not [line for line in about if line.startswith("commit")]
    (work / "mine.py").write_text(
        "from stn_lightning.backbones import CNN\n\n\nclass Mine(CNN): ...\n"
    )
    (work / "mine.yaml").write_text(
        "model: {init_args: {backbone: {class_path: mine.Mine, init_args: {num_filters: 8}}}}\n"
    )
    short = (
        "--trainer.max_epochs",
        "1",
        "--trainer.limit_train_batches",
        "1",
        "--trainer.log_every_n_steps",
        "1",
    )
    said = stn("fit", "--config", "configs/quickstart.yaml", "--config", "mine.yaml", *short)
    assert "run folder runs/quickstart-mine" in said
    config = yaml.safe_load((work / "runs/quickstart-mine/config.yaml").read_text())
    assert config["model"]["init_args"]["backbone"]["class_path"] == "mine.Mine"

"""Loggers beside TensorBoard write into the run's folder."""

import csv
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.pages import REPOSITORY
from tests.stn_command import CONFIGS, Stn

SHORT = ("--trainer.max_epochs=1", "--trainer.limit_train_batches=10")
FILES = ("--config", "configs/quickstart.yaml", "--config")


def test_curves_as_csv_lie_in_the_runs_folder_and_stay_where_the_run_goes_on(
    stn: Stn, tmp_path: Path
) -> None:
    for epochs in (1, 2):
        options = (*SHORT, f"--trainer.max_epochs={epochs}")
        code, _, err = stn("fit", *FILES, "configs/loggers/csv.yaml", *options)
        assert (code, err) == (0, "")
    run = tmp_path / "runs/quickstart-csv"
    assert list(run.glob("events.out.tfevents.*"))
    steps = set()
    for file in sorted(run.glob("csv/*/metrics.csv")):
        with file.open() as lines:
            steps |= {row["step"] for row in csv.DictReader(lines) if row["val/error"]}
    assert steps == {"9", "19"}
    config = (run / "config.yaml").read_text()
    assert "save_dir: RUN_FOLDER" in config, "another name has the same experiment"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "panels"),
    [
        ("wandb", "wandb/offline-run-*/files/media/images/where*.png"),
        ("mlflow", "mlflow/*/artifacts/images/where*.png"),
    ],
)
def test_loggers_that_take_images_get_the_panels(name: str, panels: str, tmp_path: Path) -> None:
    """In a process of its own: both libraries start threads and give warnings."""
    pytest.importorskip(name)
    (tmp_path / "configs").symlink_to(CONFIGS)
    command = [sys.executable, "-m", "stn_lightning", "fit", *FILES, f"configs/loggers/{name}.yaml"]
    subprocess.run(
        [*command, *SHORT], cwd=tmp_path, env=_environment(), check=True, capture_output=True
    )
    run = tmp_path / f"runs/quickstart-{name}"
    assert len(list(run.glob(panels))) == 1
    assert {path.name for path in tmp_path.iterdir()} == {"configs", "runs"}


def _environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(REPOSITORY), "WANDB_SILENT": "true"}


@pytest.mark.slow
def test_events_of_a_run_as_long_as_the_quickstart_stay_small(stn: Stn, tmp_path: Path) -> None:
    """Of 60 epochs of two steps each; a longer epoch adds 100 bytes a curve and ten steps."""
    options = ("--trainer.limit_train_batches=2", "--trainer.log_every_n_steps=1")
    assert stn("fit", "--config", "configs/quickstart.yaml", *options)[0] == 0
    files = list((tmp_path / "runs/quickstart").glob("events.out.tfevents.*"))
    assert 300_000 < sum(file.stat().st_size for file in files) < 3_000_000

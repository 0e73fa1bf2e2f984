"""A precision that is left alone is chosen once, said, recorded, and kept."""

import json
from pathlib import Path

import pytest
import yaml

from stn_lightning.runtime.precision import PrecisionChoice
from tests.stn_command import Stn

MOMENT = [
    "--config=configs/quickstart.yaml",
    "--name=run",
    "--trainer.limit_train_batches=1",
    "--trainer.limit_val_batches=1",
    "--trainer.limit_test_batches=1",
    "--trainer.log_every_n_steps=1",
]


@pytest.fixture
def _bf16(monkeypatch: pytest.MonkeyPatch) -> None:
    choice = PrecisionChoice("bf16-mixed", "it is faster")
    monkeypatch.setattr("stn_lightning.cli.command.choose_precision", lambda *_: choice)


@pytest.mark.usefixtures("_bf16")
def test_the_chosen_precision_is_said_and_recorded(stn: Stn, tmp_path: Path) -> None:
    code, out, _ = stn("fit", *MOMENT, "--trainer.max_epochs=1")
    assert code == 0
    assert "precision bf16-mixed: it is faster; --trainer.precision sets another" in out
    assert json.loads((tmp_path / "runs/run/results.json").read_text())["precision"] == "bf16-mixed"
    config = yaml.safe_load((tmp_path / "runs/run/config.yaml").read_text())
    assert config["trainer"]["precision"] == "bf16-mixed"


def test_a_run_keeps_its_precision_where_the_machine_would_choose_another(
    stn: Stn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert stn("fit", *MOMENT, "--trainer.max_epochs=1")[0] == 0
    choice = PrecisionChoice("bf16-mixed", "another machine")
    monkeypatch.setattr("stn_lightning.cli.command.choose_precision", lambda *_: choice)
    code, out, _ = stn("fit", *MOMENT, "--trainer.max_epochs=2")
    assert code == 0
    assert "another machine" not in out
    assert json.loads((tmp_path / "runs/run/results.json").read_text())["precision"] == "32-true"


def test_a_run_that_starts_over_gets_the_precision_of_this_machine(
    stn: Stn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert stn("fit", *MOMENT, "--trainer.max_epochs=1")[0] == 0
    choice = PrecisionChoice("bf16-mixed", "another machine")
    monkeypatch.setattr("stn_lightning.cli.command.choose_precision", lambda *_: choice)
    code, out, _ = stn("fit", *MOMENT, "--trainer.max_epochs=1", "--resume=never")
    assert code == 0
    assert "another machine" in out
    assert json.loads((tmp_path / "runs/run/results.json").read_text())["precision"] == "bf16-mixed"


@pytest.mark.usefixtures("_bf16")
def test_an_explicit_precision_wins(stn: Stn, tmp_path: Path) -> None:
    code, out, _ = stn("fit", *MOMENT, "--trainer.max_epochs=1", "--trainer.precision=32-true")
    assert code == 0
    assert "it is faster" not in out
    assert json.loads((tmp_path / "runs/run/results.json").read_text())["precision"] == "32-true"

"""Runs with other values: the best by its validation, going on where a sweep was stopped."""

import importlib.util
import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from stn_lightning.cli.typed_command import call
from stn_lightning.launch import sweep as module
from stn_lightning.launch.jobs import Ended, Job
from stn_lightning.launch.sweep import read_ranges, sweep
from stn_lightning.runs.record import RunRecord
from stn_lightning.runtime import signals
from tests.stn_command import CONFIGS

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("optuna") is None,
    reason="needs Optuna: pip install stn-lightning[sweep]",
)
RATE = "model.init_args.optimizer.init_args.lr"
FILTERS = "model.init_args.backbone.init_args.num_filters"
QUICK = ("ranges.yaml", "--config", "configs/quickstart.yaml", "--name", "try")


class Runs:
    """Takes the place of real runs: the loss is least at a learning rate of 0.003, and grows with
    the filters.
    """

    def __init__(self) -> None:
        self.started: list[list[str]] = []
        self.exit_codes: dict[int, int] = {}

    def __call__(self, jobs: list[Job], at_once: int) -> Iterator[Ended]:
        assert len(jobs) <= at_once
        for job in jobs:
            words = job.command[job.command.index("fit") :]
            code = self.exit_codes.get(len(self.started), 0)
            self.started.append(words)
            folder = Path("runs") / words[words.index("--name") + 1]
            folder.mkdir(parents=True, exist_ok=True)
            value = (
                abs(float(words[words.index(f"--{RATE}") + 1]) - 3e-3)
                + float(words[words.index(f"--{FILTERS}") + 1]) / 100
            )
            (folder / "results.json").write_text(
                RunRecord(
                    name=folder.name, seed=0, metrics={}, monitor="val/loss", best_validation=value
                ).to_json()
            )
            job.log.write_text("first\nthe last line\n")
            if code == 75:
                signals._listener.note(signal.SIGTERM)  # type: ignore[union-attr]
            yield Ended(job, code, 1.0)


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Runs:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "configs").symlink_to(CONFIGS)
    (tmp_path / "ranges.yaml").write_text(
        yaml.safe_dump(
            {RATE: {"low": 1e-4, "high": 1e-2, "log": True}, FILTERS: [8, 16]}, sort_keys=False
        )
    )
    fake = Runs()
    monkeypatch.setattr(module, "run_jobs", fake)
    return fake


def test_the_best_of_all_runs_is_printed_as_options(
    runs: Runs, capsys: pytest.CaptureFixture[str]
) -> None:
    assert (
        call(sweep, [*QUICK, "--trials", "25", "--jobs", "2", "--", "--trainer.max_epochs", "3"])
        == 0
    )
    assert len(runs.started) == 25
    assert all(words[-6:-4] == ["--trainer.max_epochs", "3"] for words in runs.started)
    *lines, best, options = capsys.readouterr().out.splitlines()
    assert len(lines) == 25
    assert best.startswith("best of 25: val/loss 0.08")
    words = options.split()
    assert words[1] == f"{float(words[1]):.6g}"
    assert "".join(lines).count(f"lr {words[1]}, num_filters 8: val/loss 0.08") == 1
    assert words[::2] == [f"--{RATE}", f"--{FILTERS}"]
    assert words[3] == "8"
    assert float(words[1]) == pytest.approx(3e-3, rel=0.3)


def test_a_stopped_sweep_goes_on_with_the_run_that_it_left_and_repeats_none(
    runs: Runs, capsys: pytest.CaptureFixture[str]
) -> None:
    runs.exit_codes = {2: 75}
    assert call(sweep, [*QUICK, "--trials", "5"]) == 75
    assert len(runs.started) == 3
    signals.release()
    assert call(sweep, [*QUICK, "--trials", "5"]) == 0
    assert runs.started[3] == runs.started[2]
    assert len({tuple(words) for words in runs.started}) == 5
    assert len({words[words.index(f"--{RATE}") + 1] for words in runs.started}) == 5
    assert "best of 5" in capsys.readouterr().out
    assert call(sweep, [*QUICK, "--trials", "5"]) == 0
    assert len(runs.started) == 6


def test_a_second_sweep_of_the_same_name_is_refused_while_the_first_runs(
    runs: Runs, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    refused = []

    def train(jobs: list[Job], at_once: int) -> Iterator[Ended]:
        refused.append(call(sweep, [*QUICK, "--trials", "1"]))
        yield from runs(jobs, at_once)

    monkeypatch.setattr(module, "run_jobs", train)
    assert call(sweep, [*QUICK, "--trials", "1"]) == 0
    assert (refused, len(runs.started)) == ([2], 1)
    said = capsys.readouterr()
    assert said.err.startswith(f"stn sweep: runs/sweeps/try is in use by process {os.getpid()} on ")
    assert said.err.count("\n") == 1
    assert "best of 1" in said.out
    assert call(sweep, [*QUICK, "--trials", "2"]) == 0


def test_a_sweep_with_a_run_that_lost_another_process_is_no_finished_sweep(runs: Runs) -> None:
    runs.exit_codes = {1: 69}
    assert call(sweep, [*QUICK, "--trials", "3"]) == 75
    assert len(runs.started) == 3
    assert call(sweep, [*QUICK, "--trials", "3"]) == 0
    assert runs.started[3] == runs.started[1]


def test_a_run_that_fails_is_left_out_and_one_that_is_wrong_ends_the_sweep(
    runs: Runs, capsys: pytest.CaptureFixture[str]
) -> None:
    runs.exit_codes = {1: 1}
    assert call(sweep, [*QUICK, "--trials", "3"]) == 0
    said = capsys.readouterr()
    assert "best of 2" in said.out
    assert said.err.endswith("ended with exit code 1: the last line\n")
    runs.exit_codes = {3: 2}
    assert call(sweep, [*QUICK, "--trials", "9"]) == 2
    assert capsys.readouterr().err == "stn sweep: runs/try-0003.log: the last line\n"
    assert len(runs.started) == 4


def test_numbers_that_yaml_reads_as_text_are_numbers() -> None:
    text = "lr: {low: 1e-4, high: 1e-2, log: true}"
    (range_,) = read_ranges(yaml.safe_load(text), Path("r.yaml")).values()
    assert (range_.low, range_.high) == (1e-4, 1e-2)


MISTAKES = {
    "no ranges": ("[]", (), "ranges.yaml: no ranges; give an option and its range"),
    "half a range": (
        "lr: {low: 1}",
        (),
        "ranges.yaml: lr: {'low': 1} is no range; give a list, or low and high",
    ),
    "upside down": (
        "lr: {low: 2, high: 1}",
        (),
        "ranges.yaml: lr: {'low': 2, 'high': 1} is no range",
    ),
    "a number": ("lr: 0.1", (), "ranges.yaml: lr: 0.1 is no range; give a list, or low and high"),
    "an option that fit does not have": (
        "trainer.max_epoch: [1]",
        (),
        "unrecognized arguments: --trainer.max_epoch 1 - did you mean --trainer.max_epochs?",
    ),
    "nothing": ("lr:", (), "ranges.yaml: lr: None is no range; give a list, or low and high"),
    "a key twice": ("lr: [1]\nlr: [2]", (), "ranges.yaml:2: key 'lr' is given twice"),
    "other ranges": (f"{RATE}: [1]\n{FILTERS}: [8]", (), "try was begun with ranges"),
    "nothing to do": (None, ("--trials", "0"), "--trials 0, --jobs 1; give 1 or more"),
    "no such file": (None, ("--config", "a.yaml"), "a.yaml: there is no such file"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_line(
    mistake: str, runs: Runs, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ranges, options, expected = MISTAKES[mistake]
    if mistake == "other ranges":
        assert call(sweep, [*QUICK, "--trials", "1"]) == 0
    if ranges is not None:
        (tmp_path / "ranges.yaml").write_text(ranges)
    capsys.readouterr()
    assert call(sweep, [*QUICK, *options]) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"stn sweep: {expected}"), said
    assert said.count("\n") == 1


def test_without_optuna_one_line_says_what_to_install(
    runs: Runs, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    assert call(sweep, [*QUICK]) == 2
    assert "pip install 'stn-lightning[sweep]'" in capsys.readouterr().err


@pytest.mark.slow
def test_real_runs_are_compared_by_what_their_folders_say(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "configs").symlink_to(CONFIGS)
    moment = (
        "--trainer.max_epochs",
        "1",
        "--trainer.limit_train_batches",
        "4",
        "--trainer.log_every_n_steps",
        "1",
    )
    files = ("configs/sweeps/learning_rates.yaml", "--config", "configs/quickstart.yaml")
    assert call(sweep, [*files, "--trials", "2", "--jobs", "2", "--", *moment]) == 0
    results = [
        json.loads(file.read_text())
        for file in Path("runs").glob("quickstart-learning_rates-*/results.json")
    ]
    assert [result["monitor"] for result in results] == ["val/error"] * 2
    best = min(result["best_validation"] for result in results)
    said = capsys.readouterr().out
    assert f"best of 2: val/error {best:.4g} %, runs/quickstart-learning_rates-000" in said


def test_a_sweep_without_validation_is_refused_before_its_first_run(
    runs: Runs, capsys: pytest.CaptureFixture[str]
) -> None:
    off = ["--trainer.limit_val_batches", "0"]
    assert call(sweep, [*QUICK, "--trials", "1", "--", *off]) == 2
    said = capsys.readouterr().err
    assert said.startswith("stn sweep: trainer.limit_val_batches is 0, and a sweep compares")
    assert said.count("\n") == 1
    assert (runs.started, Path("runs").exists()) == ([], False)
    assert call(sweep, [*QUICK, "--trials", "1"]) == 0


def test_runs_without_a_validation_end_the_sweep_with_one_line(
    runs: Runs, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def unvalidated(jobs: list[Job], at_once: int) -> Iterator[Ended]:
        for ended in runs(jobs, at_once):
            file = Path("runs/try-0000/results.json")
            file.write_text(RunRecord(name="try-0000", seed=0, metrics={}).to_json())
            yield ended

    monkeypatch.setattr(module, "run_jobs", unvalidated)
    assert call(sweep, [*QUICK, "--trials", "2"]) == 2
    assert "the run was not validated" in capsys.readouterr().err

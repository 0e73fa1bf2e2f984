"""A table runs what is missing, and nothing that is there."""

import copy
import dataclasses
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from stn_lightning.cli.parsing import ParsedSettings
from stn_lightning.cli.typed_command import call
from stn_lightning.launch import table as table_module
from stn_lightning.launch.jobs import Ended, Job, run_jobs
from stn_lightning.launch.settings import describes, settings_of
from stn_lightning.launch.table import table
from stn_lightning.launch.table_drawing import draw_table
from stn_lightning.launch.table_format import Claim, Table, markdown, read_table
from stn_lightning.runs.folder import RunFolder
from stn_lightning.runs.record import RunRecord, read_records, write_records
from stn_lightning.runtime import signals
from stn_lightning.runtime.locks import lock_path
from tests.stn_command import CONFIGS

RESULTS = CONFIGS.parent / "docs/results"
TABLES = sorted((CONFIGS / "tables").glob("*.yaml"))
SHORT = ("--trainer.max_epochs", "1", "--trainer.limit_train_batches", "2")


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(CONFIGS.parent))
    (tmp_path / "configs").symlink_to(CONFIGS)


def write_table(**content: Any) -> Path:
    content = {
        "title": "Digits",
        "metric": "test/error",
        "rows": {"ST": "configs/quickstart.yaml", "CNN": "configs/quickstart_cnn.yaml"},
        "columns": {"here": "configs/hardware/cpu.yaml"},
        "paper": {"ST": {"here": 50.0}, "CNN": {"here": 0.1}},
        **content,
    }
    Path("digits.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    return Path("digits.yaml")


def record(row: str, column: str, error: float, seed: int = 0) -> tuple[str, str, RunRecord]:
    return (
        row,
        column,
        RunRecord(
            name=f"{row}-{column}-{seed}",
            seed=seed,
            commit="abc",
            versions={"torch": "2"},
            device="a machine",
            precision="32-true",
            parameters=1000,
            epochs=12,
            train_seconds=90.0,
            samples_tested=100,
            metrics={"test/error": error},
            date="2026-11-22",
        ),
    )


def test_a_metric_that_runs_do_not_have_is_named_with_those_they_have(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    wanted = read_table(write_table(metric="test/accuracy"))
    with pytest.raises(ValueError, match="ST-here-0 has no metric test/accuracy, but test/error"):
        markdown(wanted, [record("ST", "here", 1.0)])


@pytest.mark.parametrize("path", TABLES, ids=lambda path: path.stem)
def test_every_table_names_files_that_there_are(path: Path) -> None:
    read = read_table(path)
    assert all(file.is_file() for file in [*read.rows.values(), *read.columns.values()])


@pytest.mark.slow
def test_a_table_runs_what_is_missing_and_the_second_time_nothing(
    capsys: pytest.CaptureFixture[str],
) -> None:
    arguments = [str(write_table()), "--jobs", "2", "--", *SHORT]
    assert call(table, arguments) == 0
    first = capsys.readouterr().out
    assert "2 runs to do, 2 at a time" in first
    assert "| ST | " in first
    assert call(table, arguments) == 0
    assert "0 runs to do" in capsys.readouterr().out
    assert (Path("runs/tables/digits.png")).stat().st_size > 1000
    records = Path("runs/tables/digits.jsonl").read_text()
    for run in Path("runs").glob("*-cpu-0"):
        run.rename(f"{run}.moved")
    assert call(table, arguments) == 0
    assert "0 runs to do" in capsys.readouterr().out, (
        "the records that stand with the table count too"
    )
    assert Path("runs/tables/digits.jsonl").read_text() == records
    assert call(table, [*arguments[:1], "--rows", "ST", *arguments[1:]]) == 0
    assert "| CNN | " in capsys.readouterr().out, (
        "a row that is there stays in the table when another one alone is run"
    )
    assert call(table, [*arguments[:1], "--show", "--seeds", "1", *arguments[1:]]) == 0
    assert "2 runs, seeds 0, " in capsys.readouterr().out, "so does a seed"
    assert call(table, [*arguments[:-1], "3"]) == 0
    assert "2 runs to do" in capsys.readouterr().out, "other settings are other runs"


def results_of(job: Job, error: float) -> RunRecord:
    """The record that a run of this command writes."""
    words = job.command[job.command.index("fit") + 1 :]
    name, seed = (words[words.index(option) + 1] for option in ("--name", "--seed_everything"))
    settings = settings_of(words)
    metrics, versions = {"test/error": error}, {"torch": "2"}
    run = recorded(name=name, seed=int(seed), settings=settings, metrics=metrics, versions=versions)
    run.write(Path("runs", name, "results.json"))
    return run


def test_what_another_table_has_written_in_the_meantime_is_kept(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def train(jobs: list[Job], at_once: int) -> Iterator[Ended]:
        (job,) = jobs
        Path("runs/quickstart-cpu-0").mkdir(parents=True)
        own = results_of(job, 3.0)
        settings = copy.deepcopy(own.settings) | {"seed_everything": 7}
        settings["data"]["init_args"]["seed"] = 7
        other = dataclasses.replace(own, name="quickstart-cpu-7", seed=7, settings=settings)
        old = dataclasses.replace(own, metrics={"test/error": 99.0})
        write_records(Path("runs/tables/digits.jsonl"), [other, old])
        yield Ended(job, 0, 1.0)

    def write_locked(path: Path, records: Iterable[RunRecord]) -> None:
        assert lock_path(path).exists()
        write_records(path, records)

    monkeypatch.setattr(table_module, "run_jobs", train)
    monkeypatch.setattr(table_module, "write_records", write_locked)
    assert call(table, [str(write_table()), "--rows", "ST"]) == 0
    written = read_records(Path("runs/tables/digits.jsonl"))
    errors = {name: run.metrics["test/error"] for name, run in written.items()}
    assert errors == {"quickstart-cpu-0": 3.0, "quickstart-cpu-7": 3.0}
    assert "2 runs, seeds 0, 7, " in capsys.readouterr().out


def test_a_table_replaces_the_earlier_one_only_when_it_is_complete() -> None:
    assert call(table, [str(write_table()), "--show"]) == 0
    file = Path("runs/tables/digits.md")
    os.link(file, "before.md")
    assert call(table, [str(write_table(title="Zahlen, größer")), "--show"]) == 0
    assert Path("before.md").read_text().startswith("# Digits\n")
    assert file.read_bytes().startswith("# Zahlen, größer\n".encode())


@pytest.mark.parametrize(("ends", "code"), [(75, 75), (69, 75), (1, 1)])
def test_a_table_with_a_run_that_was_stopped_is_no_finished_table(
    ends: int, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stop(jobs: list[Job], at_once: int) -> Iterator[Ended]:
        for job in jobs:
            job.log.parent.mkdir(parents=True, exist_ok=True)
            job.log.write_text("the last line\n")
            yield Ended(job, ends, 1.0)

    monkeypatch.setattr(table_module, "run_jobs", stop)
    try:
        assert call(table, [str(write_table()), "--rows", "ST"]) == code
    finally:
        signals.release()
    assert ("the same command resumes it" in capsys.readouterr().out) == (code == 75)


def test_a_table_that_is_stopped_before_a_run_has_ended_is_no_finished_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def stop(jobs: list[Job], at_once: int) -> Iterator[Ended]:
        signal.raise_signal(signal.SIGTERM)
        yield from ()

    monkeypatch.setattr(table_module, "run_jobs", stop)
    try:
        assert call(table, [str(write_table()), "--rows", "ST"]) == 75
    finally:
        signals.release()


EPOCHS = "--trainer.max_epochs"


@pytest.mark.parametrize(
    ("options", "checkpoint", "code"),
    [
        ([EPOCHS, "3"], True, 2),
        ([EPOCHS, "3"], False, 75),
        ([EPOCHS, "3", "--resume", "never"], True, 75),
        ([EPOCHS, "2"], True, 75),
    ],
)
def test_a_begun_run_is_resumed_by_its_own_settings_alone(
    options: list[str],
    checkpoint: bool,
    code: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    started = []

    def stop(jobs: list[Job], at_once: int) -> Iterator[Ended]:
        started.extend(jobs)
        yield from (Ended(job, 75, 1.0) for job in jobs)

    monkeypatch.setattr(table_module, "run_jobs", stop)
    begun = RunFolder("quickstart-cpu-0")
    begun.save_config(settings_of([*FILES, EPOCHS, "2"]))
    if checkpoint:
        begun.checkpoints.mkdir()
        (begun.checkpoints / "last.ckpt").touch()
    assert call(table, [str(write_table()), "--rows", "ST", "--", *options]) == code
    assert len(started) == (code == 75)
    if code == 2:
        assert capsys.readouterr().err == (
            "stn table: runs/quickstart-cpu-0 was started with trainer.max_epochs = 2, "
            "now it is 3; give it in another --config file, which gives the runs other names, "
            "or move runs/quickstart-cpu-0 away\n"
        )


def test_a_run_that_finished_with_a_record_of_other_settings_is_said_to_have(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def lengthen(jobs: list[Job], at_once: int) -> Iterator[Ended]:
        (job,) = jobs
        Path("runs/quickstart-cpu-0").mkdir(parents=True)
        run = dataclasses.replace(results_of(job, 3.0), lengths=["2 epochs", "10 epochs"])
        run.write(Path("runs/quickstart-cpu-0/results.json"))
        job.log.write_text("the last line\n")
        yield Ended(job, 0, 1.0)

    monkeypatch.setattr(table_module, "run_jobs", lengthen)
    assert call(table, [str(write_table()), "--rows", "ST"]) == 1
    assert capsys.readouterr().err == (
        "ST, here, seed 0: finished, but its record is of other settings; "
        "move runs/quickstart-cpu-0 away to train it again (runs/quickstart-cpu-0.log)\n"
    )


@pytest.mark.slow
def test_a_stopped_table_goes_on_with_the_runs_that_it_left() -> None:
    options = ["--rows", "ST", "--", "--trainer.max_epochs", "3"]
    command = [sys.executable, "-m", "stn_lightning", "table", str(write_table()), *options]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    log = Path("runs/quickstart-cpu-0.log")
    while not log.exists() or "epoch   1/3" not in log.read_text():
        assert process.poll() is None
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    out, _ = process.communicate(timeout=400)
    assert process.returncode == 75, out
    assert "stopped; the same command resumes it" in out
    assert "stopped by SIGTERM" in log.read_text()
    again = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert again.returncode == 0, again.stderr
    assert "resuming runs/quickstart-cpu-0" in log.read_text()
    results = json.loads(Path("runs/quickstart-cpu-0/results.json").read_text())
    assert results["samples_seen"] == 3 * 1097


def test_only_missing_runs_are_commanded(capsys: pytest.CaptureFixture[str]) -> None:
    path = write_table()
    assert (
        call(table, [str(path), "--seeds", "0", "1", "--rows", "ST", "--dry-run", "--", *SHORT])
        == 0
    )
    lines = capsys.readouterr().out.splitlines()
    files = "--config configs/quickstart.yaml --config configs/hardware/cpu.yaml"
    assert lines == [
        f"stn fit {files} --name quickstart-cpu-{s} --seed_everything {s} {' '.join(SHORT)}"
        for s in (0, 1)
    ]


def test_a_job_array_has_a_line_for_each_missing_run(capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--slurm", "--gpus", "1", "--jobs", "2", "--dry-run"]
    assert (
        call(
            table, [str(write_table()), "--seeds", "0", "1", "--rows", "ST", *options, "--", *SHORT]
        )
        == 0
    )
    text = capsys.readouterr().out
    assert "#SBATCH --array=0-1%2\n" in text
    assert "#SBATCH --nodes=1\n" in text
    assert "scontrol requeue ${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID\n" in text, (
        "this element alone"
    )
    assert "134|137" not in text, "one process loses no other"
    assert "#SBATCH --dependency=singleton\n" in text
    files = "--config configs/quickstart.yaml --config configs/hardware/cpu.yaml"
    for n in (0, 1):
        (line,) = [line for line in text.splitlines() if line.startswith(f"{n}) srun ")]
        job = "--trainer.num_nodes 1 --trainer.devices 1 --trainer.accelerator gpu"
        assert line.endswith(
            f"fit {files} --name quickstart-cpu-{n} --seed_everything {n} {job} "
            f"{' '.join(SHORT)} ;;"
        )
    Path("job.sh").write_text(text)
    subprocess.run(["bash", "-n", "job.sh"], check=True)
    assert not Path("runs").exists()


def test_a_job_array_has_no_line_for_a_finished_run(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [str(write_table()), "--rows", "ST", "--seeds", "0", "1", "--slurm", "--dry-run"]
    Path("runs/quickstart-cpu-0").mkdir(parents=True)
    finished = ["fit", *FILES, "--name", "quickstart-cpu-0", "--seed_everything", "0"]
    results_of(Job(finished, Path("log")), 3.0)
    assert call(table, arguments) == 0
    text = capsys.readouterr().out
    assert "--name quickstart-cpu-0 " not in text
    assert "#SBATCH --array=0-0\n" in text
    assert re.search(r"^0\) srun .* --name quickstart-cpu-1 ", text, re.MULTILINE)


def test_an_element_of_several_processes_comes_back_alone(
    capsys: pytest.CaptureFixture[str],
) -> None:
    options = ["--rows", "ST", "--slurm", "--gpus", "2", "--dry-run"]
    assert call(table, [str(write_table()), *options]) == 0
    text = capsys.readouterr().out
    assert "|134|137)$ ]]" in text
    assert text.count("scontrol requeue ${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID") == 2
    assert text.count("scontrol requeue") == 2


def test_files_of_a_table_keep_the_dots_in_the_names_of_its_recipes(
    capsys: pytest.CaptureFixture[str],
) -> None:
    for rate in ("0.01", "0.02"):
        Path(f"lr{rate}.yaml").write_text("seed_everything: 0\n")
        assert call(table, [str(write_table()), "--config", f"lr{rate}.yaml", "--show"]) == 0
    stems = ("digits-lr0.01", "digits-lr0.02")
    written = {f"{stem}{ending}" for stem in stems for ending in (".md", ".png", ".jsonl")}
    assert {file.name for file in Path("runs/tables").iterdir()} == written
    options = ["--config", "lr0.01.yaml", "--slurm", "--dry-run"]
    assert call(table, [str(write_table()), *options]) == 0
    stem = Path("runs/tables/digits-lr0.01").absolute()
    text = capsys.readouterr().out
    assert f"# Send it again: sbatch {stem}.sh\n" in text
    assert f"#SBATCH --output={stem}-%A_%a.out\n" in text


def test_a_mistake_in_the_options_of_all_runs_shows_before_the_first(
    capsys: pytest.CaptureFixture[str],
) -> None:
    arguments = [str(write_table()), "--", "--trainer.max_epoch", "1"]
    assert call(table, arguments) == 2
    said = capsys.readouterr()
    assert said.err.startswith("stn table: ")
    assert "did you mean --trainer.max_epochs?" in said.err
    assert (said.out, Path("runs").exists()) == ("", False)


def test_a_table_stops_at_the_first_run_that_its_configuration_keeps_from_starting(
    capsys: pytest.CaptureFixture[str],
) -> None:
    option = "--model.init_args.backbone.init_args.num_classes"
    assert call(table, [str(write_table()), "--", option, "7", *SHORT]) == 2
    said = capsys.readouterr()
    assert "2 runs to do" in said.out
    assert "ST, here, seed 0: stn fit: " in said.err
    assert said.err.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["none.yaml"], "none.yaml: there is no such file"),
        (
            ["digits.yaml", "--rows", "CN"],
            "--rows: there is no 'CN' - did you mean CNN?; there is ST, CNN",
        ),
        (["digits.yaml", "--jobs", "0"], "--jobs 0; give 1 or more"),
        (
            ["digits.yaml", "--slurm", "--time", "1:00"],
            "so the job would stop soon after its start; give more time",
        ),
        (
            ["digits.yaml", "--config", "nowhere.yaml"],
            "nowhere.yaml: there is no such file",
        ),
    ],
)
def test_a_mistake_is_one_line(
    arguments: list[str], complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    write_table()
    assert call(table, arguments) == 2
    assert capsys.readouterr().err.strip().endswith(complaint)


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ({"rows": None}, "is no table"),
        ({"paper": None}, "is no table: paper is None, give rows"),
        ({"paper": [1]}, r"is no table: paper is \[1\], give rows"),
        ({"paper": {"ST": 0.8}}, "is no table: paper: ST is 0.8, give columns and their numbers"),
        (
            {"paper": {"ST": {"here": "6,5"}}},
            "is no table: paper: ST: here is '6,5', give a number",
        ),
        ({"paper": {"CN": {"here": 1}}}, "there is no 'CN' - did you mean CNN"),
        (
            {"claims": [{"says": "so", "columns": ["there"], "better": "ST", "than": ["CNN"]}]},
            "columns: there is no 'there'",
        ),
        ({"claims": [{"says": "so"}]}, "is no table"),
    ],
)
def test_a_file_that_is_no_table_is_named(content: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ValueError, match=f"^digits.yaml.* {complaint}|^digits.yaml: .*{complaint}"):
        read_table(write_table(**content))


def test_rows_and_columns_may_be_named_by_numbers() -> None:
    named = {"rows": {4: "configs/quickstart.yaml"}, "columns": {64: "configs/hardware/cpu.yaml"}}
    assert read_table(write_table(**named, paper={4: {64: 50.0}})).paper == {"4": {"64": 50.0}}


FILES = ["--config", "configs/quickstart.yaml", "--config", "configs/hardware/cpu.yaml"]
RATE = "model.init_args.optimizer.init_args.lr"


def recorded(*options: str, **changes: Any) -> RunRecord:
    """The record of a run that was started with `options`."""
    settings = copy.deepcopy(settings_of([*FILES, *options]))
    made = RunRecord(name="one", seed=0, metrics={}, epochs=10, settings=settings)
    return dataclasses.replace(made, **changes)


@pytest.mark.parametrize(
    ("begun_with", "options", "same"),
    [
        ([], [], True),
        ([f"--{RATE}", "0.001"], [f"--{RATE}=1e-3"], True),
        ([f"--{RATE}", "0.001"], [f"--{RATE}=2e-3"], False),
        ([], ["--trainer.max_epochs", "5"], False),
        (["--trainer.max_epochs", "5"], [], False),
        ([], ["--trainer.detect_anomaly"], False),
        (["--trainer.devices", "2"], [], True),
        ([], ["--data", "stn_lightning.datamodules.MNISTDataModule"], True),
        ([], ["--data", "MNISTDataModule"], True),
    ],
)
def test_a_run_is_known_by_its_resolved_configuration(
    begun_with: list[str], options: list[str], same: bool
) -> None:
    assert describes(recorded(*begun_with), [*FILES, *options]) is same


def test_an_option_that_is_new_has_its_default_in_an_earlier_record() -> None:
    before = recorded()
    del before.settings["model"]["init_args"]["overlap_penalty"]
    assert describes(before, FILES)
    assert not describes(before, [*FILES, "--model.init_args.overlap_penalty", "0.1"])


def test_a_test_before_the_end_of_its_training_is_no_result() -> None:
    assert not describes(recorded(epochs=None), FILES)


LIMIT = "--trainer.max_time=00:00:01:00"


@pytest.mark.parametrize(
    ("begun_with", "options", "same"),
    [([LIMIT], [], False), ([LIMIT], [LIMIT], True), ([], [LIMIT], True)],
)
def test_a_run_that_a_time_limit_may_have_cut_short_is_no_result_without_the_limit(
    begun_with: list[str], options: list[str], same: bool
) -> None:
    assert describes(recorded(*begun_with), [*FILES, *options]) is same


def test_a_test_of_another_checkpoint_than_the_best_is_no_result() -> None:
    for checkpoint, same in ((None, True), ("best.ckpt", True), ("last.ckpt", False)):
        assert describes(recorded(checkpoint=checkpoint, monitor="val/error"), FILES) is same
    assert describes(recorded(checkpoint="last.ckpt"), FILES), "there was no validation"


def test_a_run_is_known_whose_number_of_classes_comes_from_the_data() -> None:
    for name in ("disc", "square", "star"):
        Path("images", name).mkdir(parents=True)
        for i in range(10):
            Image.new("L", (32, 32)).save(f"images/{name}/{i}.png")
    arguments = ["--config", "configs/image_folder/small_st2.yaml"]
    arguments += ["--data.init_args.folder", str(Path("images").absolute())]
    trained = ParsedSettings(["fit", *arguments])  # as `stn fit` resolves it
    settings = trained.experiment
    assert settings["model"]["init_args"]["backbone"]["init_args"]["num_classes"] == 3
    assert describes(
        RunRecord(name="a", seed=0, metrics={}, epochs=9, settings=settings), arguments
    )


def test_a_run_that_was_made_longer_or_is_from_another_version_is_another_run() -> None:
    assert not describes(recorded(lengths=["10 epochs", "20 epochs"]), FILES)
    unknown = recorded()
    unknown.settings["model"]["init_args"]["no_such_option"] = 1
    assert not describes(unknown, FILES)


@pytest.mark.parametrize("file", sorted(RESULTS.glob("*.jsonl")), ids=lambda path: path.stem)
def test_committed_records_are_read_and_written_without_a_change(file: Path) -> None:
    records = read_records(file)
    write_records(Path(file.name), records.values())
    again = [json.loads(line) for line in Path(file.name).read_text().splitlines()]
    assert again == [json.loads(line) for line in file.read_text().splitlines()]


FOLDERS = {
    "addition": "mnist",
    "beyond": "mnist",
    "cub_half_scale": "cub",
    "synthetic_numbers": "svhn",
}
"""Folders of configs that have the recipes of a table with another name."""


@pytest.mark.slow
@pytest.mark.parametrize("file", sorted(RESULTS.glob("*.jsonl")), ids=lambda path: path.stem)
def test_committed_records_are_those_of_the_committed_files(
    file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name, *recipe = file.stem.split("-")
    files = [f"--config={path}" for path in _recipes(recipe, FOLDERS.get(name, name))]
    shutil.copy(file, file.name)
    arguments = [f"configs/tables/{name}.yaml", *files, "--show", "--out", "."]
    assert call(table, arguments) == 0
    again, before = (
        [line for line in path.read_text().splitlines() if line.startswith("|")]
        for path in (Path(f"{file.stem}.md"), file.with_suffix(".md"))
    )
    assert again == before


def _recipes(names: list[str], group: str) -> list[Path]:
    """Files below configs by their stems: recipes of the group, or of the hardware."""
    configs = Path("configs")
    return [
        [*sorted(configs.glob(f"{group}/**/{name}.yaml")), configs / f"hardware/{name}.yaml"][0]
        for name in names
    ]


def digits() -> Table:
    claims = [Claim("one beats two", ["R", "E"], "one", ["two"])]
    paper = {"one": {"R": 1.0, "E": 1.0}, "two": {"R": 1.0}}
    return Table(
        "Digits",
        "test/error",
        False,
        {"one": Path("1"), "two": Path("2")},
        {"R": Path("r"), "E": Path("e")},
        paper,
        claims,
    )


def test_a_cell_is_the_mean_with_its_spread_beside_the_papers_number(tmp_path: Path) -> None:
    results = [
        record("one", "R", 0.8, 0),
        record("one", "R", 1.0, 1),
        record("two", "R", 1.3, 0),
        record("two", "R", 1.4, 1),
    ]
    text = markdown(digits(), results)
    assert "| one | 0.90 ± 0.14 (✓) (1) | - (1) | 1,000 | 12 | 1.5 min |" in text
    assert "| two | 1.35 ± 0.07 ✗ (1) | - | 1,000 | 12 | 1.5 min |" in text
    assert "| one beats two | R | holds (0.90 against 1.35 of two, 2 seeds) |" in text
    assert "| one beats two | E | not run |" in text
    assert (
        "4 runs, seeds 0, 1, 100 test samples each, on a machine; precision 32-true, torch 2, "
        "commit abc, 2026-11-22." in text
    )


def test_a_record_without_the_version_of_torch_is_shown() -> None:
    row, column, run = record("one", "R", 0.8)
    text = markdown(digits(), [(row, column, dataclasses.replace(run, versions={}))])
    assert "precision 32-true, torch ?, commit abc" in text


def test_alignment_stands_beside_the_errors_where_records_have_it() -> None:
    results = [record(row, "R", 1.0, seed) for row in ("one", "two") for seed in (0, 1)]
    assert "alignment" not in markdown(digits(), results)
    for (_, _, run), angle in zip(results[:2], (0.91, 0.95), strict=True):
        run.metrics["test/alignment_angle"] = angle
    results.append(record("one", "E", 1.0, 0))
    names = ("angle", "scale", "place")
    results[-1][2].metrics.update({f"test/alignment_{name}": 0.5 for name in names})
    text = markdown(digits(), results)
    assert (
        "| | R | E | alignment | parameters | epochs | training |\n|---|---|---|---|---|---|---|"
        in text
    )
    assert "| R 0.93, E 0.50 / 0.50 / 0.50 | 1,000 | 12 | 1.5 min |" in text
    assert "| two | 1.00 ± 0.00 ✓ (1) | - | - | 1,000 |" in text.replace("(✓)", "✓")


def test_each_group_of_parts_is_scored_in_the_crop_that_suits_it_best() -> None:
    results = [record(row, "R", 1.0, seed) for row in ("one", "two") for seed in (0, 1)]
    assert "parts" not in markdown(digits(), results)
    # in the second seed the crops have changed places; head alone would choose the same crop twice
    for (_, _, run), (head, body) in zip(results[:2], ((1, 2), (2, 1)), strict=True):
        scores = {"head": {head: 80.0, body: 10.0}, "body": {head: 50.0, body: 40.0 + head}}
        for group, crops in scores.items():
            for crop, value in crops.items():
                run.metrics[f"test/{group}_crop_{crop}"] = value
                run.metrics[f"test/{group}_any_crop_{crop}"] = value + 5
        run.metrics["test/crop_overlap"] = 0.1 * head
    text = markdown(digits(), results)
    assert "| parts | parameters |" in text
    assert "| head 80 (85), body 41 to 42 (46 to 47), overlap 0.10 to 0.20 | 1,000 |" in text
    assert "| two | 1.00 ± 0.00 ✓ (1) | - | - | 1,000 |" in text.replace("(✓)", "✓")


def test_an_image_has_the_columns_that_have_a_run(tmp_path: Path) -> None:
    for panels, columns in ((1, ["R"]), (2, ["R", "E"]), (2, [])):
        draw_table(
            digits(), [record("one", column, 0.8, 0) for column in columns], tmp_path / "table.png"
        )
        assert _panels(tmp_path / "table.png") == panels


def _panels(file: Path) -> int:
    """How many pieces the image's longest black line, the panels' frames, has."""
    black = np.asarray(Image.open(file).convert("L")) < 30
    line = black[black.sum(1).argmax()]
    return int((np.diff(line.astype(int)) == 1).sum())


def test_three_seeds_make_a_win_and_a_claim() -> None:
    results = [
        record(row, "R", error, seed)
        for seed in range(3)
        for row, error in (("one", 0.8), ("two", 1.3))
    ]
    text = markdown(digits(), results)
    assert "0.80 ± 0.00 ✓ (1)" in text
    assert "holds (0.80 against 1.30 of two) |" in text
    single = markdown(digits(), [result for result in results if result[2].seed == 0])
    assert "0.80 (✓) (1)" in single
    assert "holds (0.80 against 1.30 of two, 1 seed) |" in single


@pytest.mark.parametrize(
    ("theirs", "verdict"),
    [
        ((1.3, 1.4), "holds"),  # by 0.45; twice the standard error is 0.22
        ((1.07, 1.17), "within the spread"),  # by 0.22, more than once the standard error
        ((1.12, 1.22), "holds"),  # by 0.27, less than twice the standard deviation
        ((0.9, 1.1), "within the spread"),
        ((0.2, 0.3), "does not hold"),
    ],
)
def test_a_claim_holds_by_more_than_the_seeds_differ(
    theirs: tuple[float, float], verdict: str
) -> None:
    results = [
        record("one", "R", 0.8, 0),
        record("one", "R", 1.0, 1),
        *(record("two", "R", error, seed) for seed, error in enumerate(theirs)),
    ]
    assert f"| one beats two | R | {verdict}" in markdown(digits(), results)


def test_where_more_is_better_the_marks_and_claims_turn_round() -> None:
    results = [record("one", "R", 99.0), record("two", "R", 0.5)]
    text = markdown(digits()._replace(highest=True), results)
    assert "99.00 (✓)" in text
    assert "0.50 ✗" in text
    assert "holds (99.00 against 0.50" in text


def test_the_jobs_share_the_cores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    show = [
        sys.executable,
        "-c",
        "import os, sys; print(os.environ['OMP_NUM_THREADS']); sys.exit(3)",
    ]
    jobs = [Job(show, tmp_path / f"{n}.log") for n in range(3)]
    ended = list(run_jobs(jobs, 2))
    assert sorted(end.job.log.name for end in ended) == ["0.log", "1.log", "2.log"]
    assert {end.exit_code for end in ended} == {3}
    assert (tmp_path / "0.log").read_text().strip() == str(
        max(len(os.sched_getaffinity(0)) // 2, 1)
    )


def test_parallel_jobs_share_the_gpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    show = "import os, time; print(os.environ.get('CUDA_VISIBLE_DEVICES')); time.sleep(1)"
    jobs = [Job([sys.executable, "-c", show], tmp_path / f"{n}.log") for n in range(3)]

    def seen(at_once: int) -> list[str]:
        list(run_jobs(jobs, at_once))
        return [job.log.read_text().split()[-1] for job in jobs]

    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert seen(3) == ["0", "1", "0"]
    assert seen(1) == ["None"] * 3, "a job alone has them all"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,7")
    assert seen(2)[:2] == ["5", "7"]


def test_jobs_that_are_left_early_have_ended_when_their_caller_goes_on(tmp_path: Path) -> None:
    saves = (
        "import signal, sys, time\n"
        "def save(*_):\n    time.sleep(1)\n    print('saved', flush=True)\n    sys.exit(75)\n"
        "signal.signal(signal.SIGTERM, save)\nprint('ready', flush=True)\ntime.sleep(60)\n"
    )
    slow = Job([sys.executable, "-c", saves], tmp_path / "slow.log")
    wait = f"until grep -q ready {slow.log}; do sleep 0.1; done"
    jobs = run_jobs([slow, Job(["bash", "-c", wait], tmp_path / "quick.log")], 2)
    assert next(jobs).job.log.name == "quick.log"
    jobs.close()
    assert slow.log.read_text() == "ready\nsaved\n"


@pytest.mark.parametrize("name", ["addition", "volumes"])
def test_a_committed_table_is_shown_and_its_records_stay_as_they_are(
    name: str, tmp_path: Path
) -> None:
    """Comparing a record with the files once changed its settings, so that it was not written."""
    committed = CONFIGS.parent / f"docs/results/{name}.jsonl"
    shutil.copy(committed, tmp_path)
    assert call(table, [f"configs/tables/{name}.yaml", "--show", "--out", str(tmp_path)]) == 0
    kept = [json.loads(line)["settings"] for line in committed.read_text().splitlines()]
    written = (tmp_path / committed.name).read_text()
    now = [json.loads(line)["settings"] for line in written.splitlines()]
    assert now == kept

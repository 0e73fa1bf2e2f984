"""A table runs what is missing, and nothing that is there."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from stn_lightning.launch.jobs import Job, run_jobs
from stn_lightning.launch.table import table
from stn_lightning.launch.table_format import Claim, Table, draw_table, markdown, read_table
from stn_lightning.runs.folder import matches
from tests.stn_command import CONFIGS

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


def record(row: str, column: str, error: float, seed: int = 0) -> tuple[str, str, dict[str, Any]]:
    keys = {
        "parameters": 1000,
        "epochs": 12,
        "train_seconds": 90.0,
        "samples_tested": 100,
        "device": "a machine",
        "precision": "32-true",
    }
    more = {
        "versions": {"torch": "2"},
        "commit": "abc",
        "date": "2026-11-22",
        "seed": seed,
        "metrics": {"test/error": error},
    }
    return row, column, {**keys, **more}


@pytest.mark.parametrize("path", TABLES, ids=lambda path: path.stem)
def test_every_table_names_files_that_there_are(path: Path) -> None:
    read = read_table(path)
    assert all(file.is_file() for file in [*read.rows.values(), *read.columns.values()])


@pytest.mark.slow
def test_a_table_runs_what_is_missing_and_the_second_time_nothing(
    capsys: pytest.CaptureFixture[str],
) -> None:
    arguments = [str(write_table()), "--jobs", "2", "--", *SHORT]
    assert table(arguments) == 0
    first = capsys.readouterr().out
    assert "2 runs to do, 2 at once" in first
    assert "| ST | " in first
    assert table(arguments) == 0
    assert "0 runs to do" in capsys.readouterr().out
    assert (Path("runs/tables/digits.png")).stat().st_size > 1000
    records = Path("runs/tables/digits.jsonl").read_text()
    for run in Path("runs").glob("*-cpu-0"):
        run.rename(f"{run}.moved")
    assert table(arguments) == 0
    assert "0 runs to do" in capsys.readouterr().out, (
        "the records that stand with the table count too"
    )
    assert Path("runs/tables/digits.jsonl").read_text() == records
    assert table([*arguments[:1], "--rows", "ST", *arguments[1:]]) == 0
    assert "| CNN | " in capsys.readouterr().out, (
        "a row that is there stays in the table when another one alone is run"
    )
    assert table([*arguments[:1], "--show", "--seeds", "1", *arguments[1:]]) == 0
    assert "2 runs, seeds 0, " in capsys.readouterr().out, "so does a seed"
    assert table([*arguments[:-1], "3"]) == 0
    assert "2 runs to do" in capsys.readouterr().out, "other settings are other runs"


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
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 75, out
    assert "stopped; the same command goes on with it" in out
    assert "stopped by SIGTERM" in log.read_text()
    again = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert again.returncode == 0, again.stderr
    assert "going on with runs/quickstart-cpu-0" in log.read_text()
    results = json.loads(Path("runs/quickstart-cpu-0/results.json").read_text())
    assert results["samples_seen"] == 3 * 1097


def test_only_missing_runs_are_commanded(capsys: pytest.CaptureFixture[str]) -> None:
    path = write_table()
    assert table([str(path), "--seeds", "0", "1", "--rows", "ST", "--dry-run", "--", *SHORT]) == 0
    lines = capsys.readouterr().out.splitlines()
    files = "--config configs/quickstart.yaml --config configs/hardware/cpu.yaml"
    assert lines == [
        f"stn fit {files} --seed_everything {s} --name quickstart-cpu-{s} {' '.join(SHORT)}"
        for s in (0, 1)
    ]


def test_a_job_array_has_a_line_for_each_missing_run(capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--slurm", "--gpus", "1", "--jobs", "2", "--dry-run"]
    assert (
        table([str(write_table()), "--seeds", "0", "1", "--rows", "ST", *options, "--", *SHORT])
        == 0
    )
    text = capsys.readouterr().out
    assert "#SBATCH --array=0-1%2\n" in text
    assert "#SBATCH --nodes=1\n" in text
    assert "scontrol requeue ${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID\n" in text, (
        "this element alone"
    )
    files = "--config configs/quickstart.yaml --config configs/hardware/cpu.yaml"
    for n in (0, 1):
        (line,) = [line for line in text.splitlines() if line.startswith(f"{n}) srun ")]
        job = "--trainer.num_nodes 1 --trainer.devices 1 --trainer.accelerator gpu"
        assert line.endswith(
            f"fit {files} --seed_everything {n} --name quickstart-cpu-{n} {job} {' '.join(SHORT)} ;;"
        )
    Path("job.sh").write_text(text)
    subprocess.run(["bash", "-n", "job.sh"], check=True)
    assert not Path("runs").exists()


def test_a_run_that_fails_is_named_with_what_it_said(capsys: pytest.CaptureFixture[str]) -> None:
    assert table([str(write_table()), "--rows", "ST", "--", "--trainer.max_epoch", "1"]) == 1
    said = capsys.readouterr()
    assert "ST, here, seed 0: ended with exit code 2: stn fit:" in said.err
    assert "did you mean trainer.max_epochs?" in said.err
    assert "No run of it is there yet" in said.out


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["none.yaml"], "none.yaml: there is no such file"),
        (
            ["digits.yaml", "--rows", "CN"],
            "--rows: there is no 'CN' - did you mean CNN?; there is ST, CNN",
        ),
        (["digits.yaml", "--jobs", "0"], "--jobs 0; give 1 or more"),
        (["digits.yaml", "--slurm", "--time", "1:00"], "--signal-before 180 s; give more time"),
        (
            ["digits.yaml", "--config", "nowhere.yaml"],
            "--config nowhere.yaml: there is no such file",
        ),
    ],
)
def test_a_mistake_is_one_line(
    arguments: list[str], complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    write_table()
    assert table(arguments) == 2
    assert capsys.readouterr().err.strip().endswith(complaint)


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ({"rows": None}, "is no table"),
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


def settings(passes: int, family: Any) -> dict[str, Any]:
    """Of a run, as its config.yaml has them."""
    return {
        "trainer": {"max_epochs": passes, "devices": 1},
        "model": {"class_path": "A", "init_args": {"family": family, "size": None}},
    }


@pytest.mark.parametrize(
    ("started_with", "options", "same"),
    [
        (settings(3, {"class_path": "B", "init_args": {}}), [], True),
        (settings(3, {"class_path": "C"}), [], False),
        (settings(4, {"class_path": "B"}), [], False),
        (settings(4, {"class_path": "B"}), ["--trainer.max_epochs", "4"], True),
        (settings(4, {"class_path": "B"}), ["--trainer.max_epochs=5"], False),
    ],
)
def test_a_run_counts_when_its_settings_are_what_the_files_and_options_say(
    started_with: Any, options: list[str], same: bool
) -> None:
    Path("below.yaml").write_text(
        "trainer: {max_epochs: 2}\nmodel: {class_path: X, init_args: {size: 7}}\n"
    )
    Path("above.yaml").write_text(
        "trainer: {max_epochs: 3}\nmodel: {class_path: A, init_args: {family: B}}\n"
    )
    assert matches(started_with, [Path("below.yaml"), Path("above.yaml")], options) is same


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
        "4 runs, seeds 0, 1, 100 test samples each, on a machine; precision 32-true, torch 2, commit abc, 2026-11-22."
        in text
    )


def test_a_picture_has_the_columns_that_have_a_run(tmp_path: Path) -> None:
    for panels, columns in ((1, ["R"]), (2, ["R", "E"]), (2, [])):
        draw_table(
            digits(), [record("one", column, 0.8, 0) for column in columns], tmp_path / "table.png"
        )
        assert _panels(tmp_path / "table.png") == panels


def _panels(file: Path) -> int:
    """How often the picture's longest black line, a panel's frame, is interrupted and begins again."""
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
    single = markdown(digits(), [result for result in results if result[2]["seed"] == 0])
    assert "0.80 (✓) (1)" in single
    assert "holds (0.80 against 1.30 of two, 1 seed) |" in single


@pytest.mark.parametrize(
    ("theirs", "verdict"),
    [((1.3, 1.4), "holds"), ((0.9, 1.1), "within the spread"), ((0.2, 0.3), "does not hold")],
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

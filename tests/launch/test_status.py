"""What a run writes down about itself, and what is said of it."""

import json
import os
import shlex
import time
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import torch
from lightning import LightningModule, Trainer

from stn_lightning.callbacks.status_file import StatusFile
from stn_lightning.cli.typed_command import call
from stn_lightning.launch.status import line, status
from stn_lightning.runtime.atomic_files import MACHINE
from tests.stn_command import Stn


def state(**known: Any) -> dict[str, Any]:
    whole = {
        "doing": "training",
        "epoch": 3,
        "epochs": 13,
        "epoch_seconds": 60.0,
        "metrics": {"val/error": 1.5},
        "why": None,
    }
    return {
        **whole,
        "machine": MACHINE,
        "process": os.getpid(),
        "job": None,
        "time": time.time(),
        **known,
    }


def test_a_run_tells_its_state_from_the_first_epoch_to_the_test(
    stn: Stn, capsys: pytest.CaptureFixture[str]
) -> None:
    options = (
        "--trainer.max_epochs",
        "2",
        "--trainer.limit_train_batches",
        "2",
        "--trainer.log_every_n_steps",
        "1",
    )
    assert stn("fit", "--config", "configs/quickstart.yaml", *options)[0] == 0
    written = json.loads(Path("runs/quickstart/state.json").read_text())
    assert (written["doing"], written["epoch"], written["epochs"]) == ("tested", 2, 2)
    assert set(written["metrics"]) == {"val/error", "val/loss", "test/error"}
    assert call(status, []) == 0
    error = written["metrics"]["test/error"]
    assert f"quickstart  finished  2/2    {error:.2f} % test" in capsys.readouterr().out


def test_a_resumed_training_counts_the_epochs_of_its_own_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = Mock(
        spec=Trainer,
        default_root_dir=tmp_path,
        callback_metrics={},
        current_epoch=10,
        max_epochs=20,
        is_global_zero=True,
        fast_dev_run=False,
        sanity_checking=False,
    )
    task, now = Mock(spec=LightningModule), time.time()
    monkeypatch.setattr(time, "time", lambda: now)
    callback = StatusFile()
    callback.setup(trainer, task, "fit")
    callback.on_train_start(trainer, task)
    now += 60
    trainer.current_epoch = 11
    callback.on_train_epoch_end(trainer, task)
    written = json.loads((tmp_path / "state.json").read_text())
    assert (written["epoch"], written["epoch_seconds"]) == (12, 30)


def test_a_training_that_fails_says_why(stn: Stn) -> None:
    code, _, _ = stn(
        "fit",
        "--config",
        "configs/quickstart.yaml",
        "--model.init_args.optimizer.init_args.lr",
        "1e30",
        "--trainer.max_epochs",
        "2",
    )
    assert code == 1
    written = json.loads(Path("runs/quickstart/state.json").read_text())
    assert written["doing"] == "failed"
    assert "not finite" in written["why"]
    assert line("quickstart", written).state == "failed"
    assert "not finite" in line("quickstart", written).why


ENDS = [
    ({"doing": "training", "epoch": 1}, "training"),
    ({"doing": "stopped", "epoch": 1, "why": "stopped by SIGTERM"}, "stopped"),
    ({"doing": "failed", "epoch": 1, "why": "a bug"}, "failed"),
    ({"doing": "failed", "epoch": 2, "why": "a bug in the test"}, "tested"),
    ({"doing": "trained", "epoch": 1, "why": None}, "tested"),
]


def test_a_test_by_itself_ends_no_training(stn: Stn) -> None:
    """Not one that another process is busy with, nor one that was left half-way."""
    file = Path("runs/quickstart/state.json")
    options = ("--config=configs/quickstart.yaml", "--trainer.limit_train_batches=2")
    assert stn("fit", *options, "--trainer.max_epochs=2", "--trainer.log_every_n_steps=1")[0] == 0
    whole = json.loads(file.read_text())
    for known, expected in ENDS:
        before = {**whole, **known}
        file.write_text(json.dumps(before))
        assert stn("test", "--name=quickstart")[0] == 0
        after = json.loads(file.read_text())
        assert after["doing"] == expected, before
        assert (after == before) is (expected != "tested"), before
    best = Path("runs/quickstart/checkpoints/best.ckpt")
    checkpoint = torch.load(best, weights_only=True)
    for weight in checkpoint["state_dict"].values():
        weight.fill_(torch.nan)
    torch.save(checkpoint, best)
    assert stn("test", "--name=quickstart")[0] != 0
    assert json.loads(file.read_text()) == after, "nor does a test that fails"


@pytest.mark.parametrize(
    ("known", "expected"),
    [
        ({}, ("training", "3/13", "1.50 % val", "10 min")),
        ({"process": 2**22 - 1}, ("lost", "3/13", "1.50 % val", "")),
        ({"machine": "elsewhere"}, ("training", "3/13", "1.50 % val", "10 min")),
        ({"machine": "elsewhere", "time": time.time() - 3600}, ("lost", "3/13", "1.50 % val", "")),
        ({"doing": "stopped", "epochs": None}, ("stopped", "3/?", "1.50 % val", "")),
        (
            {"doing": "tested", "metrics": {"val/error": 1.5, "test/error": 1.0}},
            ("finished", "3/13", "1.00 % test", ""),
        ),
        ({"epoch_seconds": None, "metrics": {}}, ("training", "3/13", "", "")),
    ],
)
def test_a_state_is_said_in_words(known: dict[str, Any], expected: tuple[str, ...]) -> None:
    said = line("run", state(**known))
    assert (said.state, said.epoch, said.error, said.left) == expected


def test_a_run_that_there_is_not_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert call(status, ["none"]) == 2
    assert "runs/none has no state.json" in capsys.readouterr().err


@pytest.mark.parametrize(
    "damaged",
    [
        b"",
        b"\xff\xfe",
        b"[1, 2]",
        b"null",
        b'{"doing": "training", "time": 1}',
        b'{"doing": "tested", "time": "noon", "epoch": 1, "epochs": 1, "metrics": {}}',
        json.dumps(state(metrics=None)).encode(),
        json.dumps(state(metrics={"val/error": "low"})).encode(),
        json.dumps(state(epoch="third")).encode(),
        json.dumps(state(machine=3, process="me", time=None)).encode(),
    ],
)
def test_a_damaged_state_is_named_and_left_out_and_the_others_are_shown(
    damaged: bytes,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, content in {"good": json.dumps(state()).encode(), "bad": damaged}.items():
        folder = tmp_path / "runs" / name
        folder.mkdir(parents=True)
        (folder / "state.json").write_bytes(content)
        (folder / "job.sh").write_bytes(b"\xff no text")
    assert call(status, []) == 0
    said = capsys.readouterr()
    assert "good  training  3/13" in said.out
    assert "bad" not in said.out
    assert said.err.startswith("runs/bad/state.json is left out: ")
    assert said.err.count("\n") == 1


SQUEUE = """#!/bin/bash
# As SLURM 22.05: the first array waits with two of its elements, the second is long gone.
case "$*" in
*--array*--jobs=4720*PENDING*) echo "1 JobArrayTaskLimit"; echo "2 Resources" ;;
*) echo "slurm_load_jobs error: Invalid job id specified" >&2; exit 1 ;;
esac
"""


def test_runs_of_a_table_that_wait_in_the_queue_are_told_where_slurm_knows_of_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    tables = tmp_path / "runs/tables"
    tables.mkdir(parents=True)
    for table, job in {"mnist": 4720, "svhn": 4000}.items():
        elements = "".join(
            f"{n}) srun python -m stn_lightning fit --name {table}-{n} --trainer.devices 1 ;;\n"
            for n in range(3)
        )
        (tables / f"{table}.sh").write_text(
            f"#!/bin/bash\ncase $SLURM_ARRAY_TASK_ID in\n{elements}esac\n# sent as job {job}\n"
        )
    begun = tmp_path / "runs/mnist-0/state.json"
    begun.parent.mkdir()
    begun.write_text(json.dumps(state(job="4721")))
    head = "run      state      epoch  error       time left  job     why"
    training = "mnist-0  training   3/13   1.50 % val  10 min     4721"
    waiting = [
        "mnist-1  submitted" + " " * 32 + "4720_1  waits: JobArrayTaskLimit",
        "mnist-2  submitted" + " " * 32 + "4720_2  waits: Resources",
    ]

    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    assert call(status, []) == 0
    assert "mnist-1" not in capsys.readouterr().out

    squeue = tmp_path / "bin/squeue"
    squeue.parent.mkdir()
    squeue.write_text(SQUEUE)
    squeue.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")
    assert call(status, []) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[0] == head
    assert sorted(said[1:]) == [training, *waiting]
    assert call(status, ["mnist-2"]) == 0
    assert "waits: Resources" in capsys.readouterr().out


def test_a_waiting_run_whose_name_a_shell_would_not_read_plainly_is_told_by_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    script = tmp_path / "runs/tables/größen.sh"
    script.parent.mkdir(parents=True)
    elements = "".join(
        f"{n}) {shlex.join(['srun', 'fit', '--config', 'a b', '--name', f'größe-{n}'])} ;;\n"
        for n in range(3)
    )
    script.write_text(f"case $SLURM_ARRAY_TASK_ID in\n{elements}esac\n# sent as job 4720\n")
    squeue = tmp_path / "squeue"
    squeue.write_text(SQUEUE)
    squeue.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    assert call(status, ["größe-1"]) == 0
    assert "größe-1  submitted" in capsys.readouterr().out


def test_runs_in_all_states(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    now = time.time()
    runs = {
        "one": state(doing="tested", epoch=13, metrics={"test/error": 1.0}, time=now - 6000),
        "two": state(machine="n2", job="4711", time=now - 3600),
        "three": state(
            doing="stopped",
            why="stopped by SIGTERM; last.ckpt has everything up to step 12",
            job="4712",
            time=now - 50,
        ),
        "four": state(
            doing="failed", why="the loss is not finite", epoch=0, metrics={}, time=now - 40
        ),
        "five": state(job="4713", time=now - 5),
    }
    for name, known in runs.items():
        (tmp_path / "runs" / name).mkdir(parents=True)
        (tmp_path / "runs" / name / "state.json").write_text(json.dumps(known))
    (tmp_path / "runs/six").mkdir()
    (tmp_path / "runs/six/job.sh").write_text("#!/bin/bash\n# sent as job 4714\n")
    (tmp_path / "runs/seven").mkdir()
    (tmp_path / "runs/seven/job.sh").write_text("#!/bin/bash\n")  # the cluster did not take it
    assert call(status, []) == 0
    assert capsys.readouterr().out.splitlines() == [
        "run    state      epoch  error        time left  job   why",
        "one    finished   13/13  1.00 % test",
        "two    lost       3/13   1.50 % val              4711  no news from n2 for 60 min",
        "three  stopped    3/13   1.50 % val              4712  stopped by SIGTERM",
        "four   failed     0/13                                 the loss is not finite",
        "five   training   3/13   1.50 % val   10 min     4713",
        "six    submitted                                 4714  waiting, starting, "
        "or failed at once: see squeue and slurm-*.out",
        "give the command of a run again to resume it",
    ]

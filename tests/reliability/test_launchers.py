"""Under the launchers that people use, which have signals and kills of their own."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.reliability.processes import wait_for
from tests.reliability.test_kills import told
from tests.reliability.training import record

pytestmark = pytest.mark.slow
PROGRAM = ("-m", "tests.reliability.launched")
ROOT = Path(__file__).parents[2]


def start(*command: str, log: Path, **environment: str) -> subprocess.Popen[bytes]:
    with log.open("ab") as file:
        return subprocess.Popen(
            [sys.executable, *command],
            cwd=ROOT,
            env=os.environ | environment,
            stdout=file,
            stderr=file,
            start_new_session=True,
        )


def processes(launcher: subprocess.Popen[bytes]) -> list[int]:
    """The launcher and the processes of the training that it has started."""
    found = [launcher.pid]
    for parent in found:
        children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
        found += [
            int(child)
            for child in children
            if "launched" in Path(f"/proc/{child}/cmdline").read_text()
        ]
    return found


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    folder = tmp_path_factory.mktemp("straight")
    launcher = start(*PROGRAM, str(folder), "2", "0", log=folder / "log")
    assert launcher.wait(400) == 0, (folder / "log").read_text()
    return told(folder)


@pytest.mark.parametrize(
    ("target", "number"),
    [
        ("first", signal.SIGTERM),
        ("second", signal.SIGTERM),
        ("group", signal.SIGTERM),
        ("group", signal.SIGINT),
    ],
)
def test_processes_of_lightnings_launcher_stop_together_with_exit_code_75(
    tmp_path: Path, straight: list[Any], target: str, number: signal.Signals
) -> None:
    launcher = start(*PROGRAM, str(tmp_path), "2", "0.1", log=tmp_path / "log")
    wait_for(random.randint(1, 40), tmp_path)
    both = processes(launcher)
    assert len(both) == 2
    if target == "group":
        os.killpg(launcher.pid, number)
    else:
        os.kill(both[target == "second"], number)
    assert launcher.wait(120) == 75, (tmp_path / "log").read_text()
    end = time.monotonic() + 60
    while Path(f"/proc/{both[1]}").exists():
        assert time.monotonic() < end, "the other process is left over"
        time.sleep(0.05)
    launcher = start(*PROGRAM, str(tmp_path), "2", "0", log=tmp_path / "log")
    assert launcher.wait(400) == 0, (tmp_path / "log").read_text()
    assert sorted(record(tmp_path), key=repr) == straight


AT_A_TERMINAL = """
import fcntl, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
from stn_lightning.__main__ import main
sys.exit(main())
"""


def test_a_training_whose_terminal_is_closed_saves_and_goes_on(tmp_path: Path) -> None:
    """Its bar cannot be drawn any more."""
    options = ("--trainer.max_epochs=2", "--trainer.limit_test_batches=1")
    fit = ("fit", "--config", f"{ROOT}/configs/quickstart.yaml", *options)
    own, its = os.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", AT_A_TERMINAL, *fit],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdin=its,
        stdout=its,
        stderr=its,
        start_new_session=True,
    )
    try:
        os.close(its)
        said = b""
        while b"Epoch 0" not in said:
            said += os.read(own, 10_000)
        os.close(own)
        assert process.wait(400) == 75
    finally:
        process.kill()
        process.wait()
    state = json.loads((tmp_path / "runs/quickstart/state.json").read_text())
    assert state["doing"] == "stopped"
    assert state["why"].startswith("stopped by SIGHUP; runs/quickstart/checkpoints/last.ckpt")


def test_torchrun_restarts_a_training_whose_process_is_killed_and_it_ends_in_the_same_weights(
    tmp_path: Path, straight: list[Any]
) -> None:
    torchrun = (
        "-m",
        "torch.distributed.run",
        "--nproc-per-node=2",
        "--max-restarts=5",
        "--rdzv-backend=c10d",
        "--rdzv-endpoint=localhost:0",
    )
    launcher = start(
        *torchrun,
        *PROGRAM,
        str(tmp_path),
        "2",
        "0.1",
        log=tmp_path / "log",
        TORCH_DISABLE_SHARE_RDZV_TCP_STORE="1",
    )
    for kill in range(2):
        wait_for(8 + 20 * kill, tmp_path)
        time.sleep(random.uniform(0, 0.3))
        os.kill(random.choice(processes(launcher)[1:]), signal.SIGKILL)
    assert launcher.wait(600) == 0, (tmp_path / "log").read_text()
    assert told(tmp_path) == straight

"""A real SLURM on this machine, driven as a user drives one: `stn submit`, then squeue's,
scontrol's and scancel's kin.
"""

import contextlib
import io
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import yaml
from torch import Tensor

from stn_lightning.cli.typed_command import call
from stn_lightning.launch.submit import submit
from stn_lightning.runtime.checkpoint_io import load_checkpoint

ROOT = Path(__file__).parents[2]
TOOL = Path(__file__).with_name("slurm-local.sh")
STN = (sys.executable, "-m", "stn_lightning")
PATIENCE = 400.0
"""Seconds that a job may take here; two busy cores import PyTorch in a quarter of a minute, for
each process.
"""
ENDED = ("COMPLETED", "FAILED", "CANCELLED", "NODE_FAIL", "TIMEOUT", "OUT_OF_MEMORY")
TWO_NODES = ("--nodes", "2")


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    """Bit for bit."""
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def until(true: Callable[[], object], what: str, seconds: float = PATIENCE) -> None:
    """Wait."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, f"not within {seconds:.0f} s: {what}"
        time.sleep(0.2)


class Cluster:
    """Some nodes, each with a network of its own, and the folder in which their user works."""

    def __init__(self, state: Path, work: Path) -> None:
        self.state, self.work = state, work
        # the job's environment is its submitter's, as on most clusters
        self.environment = os.environ | {
            "SLURM_CONF": f"{state}/slurm.conf",
            "PYTHONPATH": str(ROOT),
            "OMP_NUM_THREADS": "1",
        }

    def tool(self, verb: str, *arguments: str) -> str:
        done = subprocess.run([TOOL, verb, self.state, *arguments], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def call(self, *command: str) -> str:
        """A command in the user's folder, which must succeed."""
        done = subprocess.run(
            command, cwd=self.work, env=self.environment, capture_output=True, text=True
        )
        assert done.returncode == 0, f"{' '.join(command)}: {done.stdout}{done.stderr}"
        return done.stdout

    def describe(
        self,
        name: str,
        pause: float = 0.0,
        linger: int | None = None,
        precision: str = "32-true",
    ) -> None:
        """Write a run's configuration: 3 short epochs of the quickstart, recorded, with time to be
        interrupted in.

        Args:
            name: of the run.
            pause: seconds after each step.
            linger: the step at whose end it waits for a signal.
            precision: the trainer's. One process would choose bfloat16 where the processor is
                faster with it, two would not.
        """
        callbacks = [
            {
                "class_path": "tests.reliability.training.Record",
                "init_args": {"file": f"{self.work}/{name}.jsonl"},
            },
            {
                "class_path": "tests.cluster.observers.Place",
                "init_args": {"file": f"{self.work}/{name}.places"},
            },
            {"class_path": "tests.reliability.training.Slowly", "init_args": {"seconds": pause}},
            *(
                []
                if linger is None
                else [
                    {"class_path": "tests.cluster.observers.Linger", "init_args": {"step": linger}}
                ]
            ),
        ]
        limits = {"limit_train_batches": 12, "limit_val_batches": 2, "limit_test_batches": 2}
        # of Adam's steps so little could not be asked: a gradient that is nearly 0 has a sign, and
        # its rounding another
        optimizer = {"class_path": "torch.optim.SGD", "init_args": {"lr": 0.02, "momentum": 0.9}}
        content = {
            "trainer": {"max_epochs": 3, "precision": precision, **limits, "callbacks": callbacks},
            "data": {"init_args": {"batch_size": 8}},
            "model": {"init_args": {"optimizer": optimizer}},
        }
        (self.work / f"{name}.yaml").write_text(yaml.safe_dump(content))

    def submit(self, name: str, *options: str) -> str:
        """Send the job of a run that is described; its number."""
        files = ("--config", "configs/quickstart.yaml", "--config", f"{name}.yaml")
        said = io.StringIO()
        # as `stn submit`, but in this process, which has long imported what the other would for
        # many seconds
        with (
            contextlib.chdir(self.work),
            mock.patch.dict(os.environ, self.environment),
            contextlib.redirect_stdout(said),
        ):
            assert (
                call(
                    submit,
                    [
                        *files,
                        "--name",
                        name,
                        "--gpus",
                        "0",
                        "--shared",
                        "--time",
                        "30:00",
                        *options,
                    ],
                )
                == 0
            )
        match = re.match(r"job (\d+): ", said.getvalue())
        assert match, said.getvalue()
        return match[1]

    def job(self, number: str) -> dict[str, str]:
        """What SLURM knows of a job."""
        words = self.call("scontrol", "show", "job", "-o", number).split()
        return dict(word.split("=", 1) for word in words if "=" in word)

    def wait(self, number: str, *states: str) -> dict[str, str]:
        until(
            lambda: self.job(number)["JobState"] in states,
            f"job {number} {states}: {self.job(number)['JobState']}; {self.said()}",
        )
        return self.job(number)

    def steps(self, name: str) -> int:
        """Steps that the first process has taken, those that it has taken again included."""
        file = self.work / f"{name}.jsonl"
        return file.read_text().count('["train", 0, ') if file.exists() else 0

    def wait_for_step(self, name: str, step: int) -> None:
        until(lambda: self.steps(name) >= step, f"step {step} of {name}; {self.said()}")

    def lines(self, file: str) -> list[Any]:
        """Of a record."""
        return [json.loads(line) for line in (self.work / file).read_text().splitlines()]

    def weights(self, name: str) -> dict[str, Tensor]:
        """A run's last."""
        return dict(
            load_checkpoint(self.work / "runs" / name / "checkpoints" / "last.ckpt")["state_dict"]
        )

    def said(self) -> str:
        """What all jobs have printed, for whoever reads of a failure."""
        return "\n".join(
            f"{file}:\n{file.read_text()}" for file in sorted(self.work.glob("runs/**/*.out"))
        )

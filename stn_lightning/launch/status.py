"""`stn status`: how far runs are, from their folders; and, from SLURM, which runs of a table still
wait.
"""

import json
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from stn_lightning.launch.slurm import SENT
from stn_lightning.runs.folder import RUNS
from stn_lightning.runtime.atomic_files import MACHINE, is_running
from stn_lightning.runtime.exit_codes import FINISHED

SILENT = 10
"""Epochs' time without a sign of life after which a run counts as lost."""


STATE, JOB = "state.json", "job.sh"
SUBMITTED = {"doing": "submitted", "epoch": 0, "epochs": None, "epoch_seconds": None, "metrics": {}}
SUBMITTED |= {"why": "waiting, starting, or failed at once: see squeue and slurm-*.out"}


class Line(NamedTuple):
    """What is said of a run."""

    name: str
    state: str
    epoch: str
    error: str
    left: str
    job: str
    why: str


def status(*runs: str) -> int:
    """Show how far the runs in runs/ are, the latest last.

    Args:
        runs: names of runs; all when left out.

    Returns:
        the exit code.

    Raises:
        ValueError: where nothing was ever trained under a name.
    """
    folders = [RUNS / name for name in runs] or sorted(
        {file.parent for name in (STATE, JOB) for file in RUNS.glob(f"*/{name}")}
    )
    states = {name: state for name, state in _waiting() if not runs or name in runs}
    for folder in folders:
        if (folder / STATE).exists():
            if (state := _read(folder / STATE)) is not None:
                states[folder.name] = state
        elif (number := _sent(folder / JOB)) is not None:
            states[folder.name] = {
                **SUBMITTED,
                "job": number,
                "time": (folder / JOB).stat().st_mtime,
            }
        elif runs and folder.name not in states:
            raise ValueError(f"{folder} has no {STATE}, so nothing was ever trained there")
    lines = [
        line(name, state)
        for name, state in sorted(states.items(), key=lambda item: item[1]["time"])
    ]
    rows = [Line("run", "state", "epoch", "error", "time left", "job", "why"), *lines]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    print(
        "\n".join(
            "  ".join(word.ljust(width) for word, width in zip(row, widths, strict=True)).rstrip()
            for row in rows
        )
    )
    if any(entry.state in ("stopped", "failed", "lost") for entry in lines):
        print("the command that began a run goes on with it")
    return FINISHED


def _read(file: Path) -> dict[str, Any] | None:
    """Read a state file; one that cannot be read is named and left out."""
    try:
        state = json.loads(file.read_text())
        return state if state["doing"] and state["time"] else None
    except (OSError, ValueError, TypeError, KeyError) as problem:
        print(f"{file} is left out: {problem}", file=sys.stderr)
        return None


def line(name: str, state: dict[str, Any]) -> Line:
    """A run's state in words. One that says it is training, but of which nothing is heard, is lost."""
    doing, metrics, why = state["doing"], state["metrics"], state["why"] or ""
    if doing == "training" and (lost := _lost(state)):
        doing, why = "lost", lost
    left = ""
    if doing == "training" and state["epochs"] and state["epoch_seconds"]:
        seconds = (state["epochs"] - state["epoch"]) * state["epoch_seconds"] - (
            time.time() - state["time"]
        )
        left = f"{max(seconds, 0) / 60:.0f} min"
    key = "test/error" if "test/error" in metrics and doing == "tested" else "val/error"
    error = f"{metrics[key]:.2f} % {key.partition('/')[0]}" if key in metrics else ""
    epoch = "" if doing == "submitted" else f"{state['epoch']}/{state['epochs'] or '?'}"
    return Line(
        name,
        "finished" if doing == "tested" else doing,
        epoch,
        error,
        left,
        state["job"] or "",
        why.partition(";")[0],
    )


def _sent(script: Path) -> str | None:
    """The number of the job that a script became, if it did."""
    last = script.read_text().splitlines()[-1:] if script.exists() else []
    return last[0].removeprefix(SENT) if last and last[0].startswith(SENT) else None


def _waiting() -> Iterator[tuple[str, dict[str, Any]]]:
    """Elements of job arrays that SLURM knows to wait in its queue, with the state to say of those
    that have never begun.
    """
    for script in sorted(RUNS.glob("tables/*.sh")):
        job = _sent(script)
        if job is None:
            continue
        asked = [
            "squeue",
            "--noheader",
            "--array",
            f"--jobs={job}",
            "--states=PENDING",
            "--format=%K %r",
        ]
        try:
            waiting = subprocess.run(
                asked, capture_output=True, text=True
            ).stdout  # empty where the job is long gone
        except FileNotFoundError:  # no machine of a cluster
            return
        names = dict(re.findall(r"^(\d+)\) .* --name (\S+) ", script.read_text(), re.MULTILINE))
        for element, reason in re.findall(r"^(\d+) (.+?) *$", waiting, re.MULTILINE):
            yield (
                names[element],
                {
                    **SUBMITTED,
                    "why": f"waits: {reason}",
                    "job": f"{job}_{element}",
                    "time": script.stat().st_mtime,
                },
            )


def _lost(state: dict[str, Any]) -> str:
    """Why a run that says it is training is not, as far as can be known here; empty where it is."""
    if state["machine"] == MACHINE:
        return "" if is_running(state["process"]) else "its process is gone"
    silent = time.time() - state["time"]
    known = bool(state["epoch_seconds"]) and silent > SILENT * state["epoch_seconds"]
    return f"nothing heard from {state['machine']} for {silent / 60:.0f} min" if known else ""

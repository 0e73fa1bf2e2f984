"""`stn status`: show the progress of runs.

The progress is read from the folders of runs; SLURM lists the runs of tables that are still
waiting.
"""

import json
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from stn_lightning.launch.submit import SENT
from stn_lightning.runs.folder import RUNS
from stn_lightning.runtime.atomic_files import MACHINE, is_running
from stn_lightning.runtime.exit_codes import FINISHED

SILENT = 10
"""A run counts as lost if its status file has not changed for this many epochs."""

STATE, JOB = "state.json", "job.sh"
SUBMITTED = {"doing": "submitted", "epoch": 0, "epochs": None, "epoch_seconds": None, "metrics": {}}
SUBMITTED |= {"why": "waiting, starting, or failed at once: see squeue and slurm-*.out"}


class Line(NamedTuple):
    """A row of the printed table."""

    name: str
    state: str
    epoch: str
    error: str
    left: str
    job: str
    why: str


def status(*runs: str) -> int:
    """Show the progress of runs, the latest last.

    Args:
        runs: names of runs; all when left out.

    Returns:
        the exit code.

    Raises:
        ValueError: there is no run of this name.
    """
    folders = [RUNS / name for name in runs] or sorted(
        {file.parent for name in (STATE, JOB) for file in RUNS.glob(f"[!.]*/{name}")}
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
            raise ValueError(f"{folder} has no {STATE}, so nothing was trained there")
    timed = [entry for name, state in states.items() if (entry := _timed(name, state)) is not None]
    lines = [each for _, each in sorted(timed, key=lambda entry: entry[0])]
    rows = [Line("run", "state", "epoch", "error", "time left", "job", "why"), *lines]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    print(
        "\n".join(
            "  ".join(word.ljust(width) for word, width in zip(row, widths, strict=True)).rstrip()
            for row in rows
        )
    )
    if any(entry.state in ("stopped", "failed", "lost") for entry in lines):
        print("give the command of a run again to resume it")
    return FINISHED


def _read(file: Path) -> dict[str, Any] | None:
    """Read a state file; warn and return None if unreadable."""
    try:
        return dict(json.loads(file.read_text()))
    except (OSError, ValueError, TypeError) as problem:
        _warn(file, problem)
        return None


def _timed(name: str, state: dict[str, Any]) -> tuple[float, Line] | None:
    """Return time and line of a state; None if damaged."""
    try:
        return float(state["time"]), line(name, state)
    except (ValueError, TypeError, KeyError, AttributeError) as problem:
        _warn(RUNS / name / STATE, problem)
        return None


def _warn(file: Path, problem: Exception) -> None:
    """Print that a file is left out."""
    print(f"{file} is left out: {type(problem).__name__}: {problem}", file=sys.stderr)


def line(name: str, state: dict[str, Any]) -> Line:
    """Return the row of a run.

    A run counts as lost if its status is "training", but its process has ended or has not changed
    its status file for long.
    """
    doing, metrics, why = state["doing"], state["metrics"], state["why"] or ""
    if doing == "training" and (lost := _lost(state)):
        doing, why = "lost", lost
    left = ""
    if doing == "training" and state["epochs"] and state["epoch_seconds"]:
        elapsed = time.time() - state["time"]
        seconds = (state["epochs"] - state["epoch"]) * state["epoch_seconds"] - elapsed
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
    """Return the job number of a submitted script, else None."""
    last = script.read_text(errors="replace").splitlines()[-1:] if script.exists() else []
    return last[0].removeprefix(SENT) if last and last[0].startswith(SENT) else None


def _waiting() -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield name and state of waiting elements of job arrays."""
    for script in sorted(RUNS.glob("tables/*.sh")):
        job = _sent(script)
        if job is None:
            continue
        command = ["squeue", "--noheader", "--array", f"--jobs={job}"]
        command += ["--states=PENDING", "--format=%K %r"]
        try:
            # the output is empty if the job ended long ago
            waiting = subprocess.run(command, capture_output=True, text=True).stdout
        except FileNotFoundError:  # this is no cluster
            return
        commands = re.findall(r"^(\d+)\) (.*) ;;$", script.read_text("utf-8"), re.MULTILINE)
        words = {element: shlex.split(command) for element, command in commands}
        names = {element: each[each.index("--name") + 1] for element, each in words.items()}
        for element, reason in re.findall(r"^(\d+) (.+?) *$", waiting, re.MULTILINE):
            state = {**SUBMITTED, "why": f"waits: {reason}", "job": f"{job}_{element}"}
            yield names[element], {**state, "time": script.stat().st_mtime}


def _lost(state: dict[str, Any]) -> str:
    """Return why a run is lost, or ""."""
    if state["machine"] == MACHINE:
        return "" if is_running(state["process"]) else "its process is gone"
    silent = time.time() - state["time"]
    known = bool(state["epoch_seconds"]) and silent > SILENT * state["epoch_seconds"]
    return f"no news from {state['machine']} for {silent / 60:.0f} min" if known else ""

"""`stn status`: how far runs are, from their folders alone."""

import json
import time
from typing import Any, NamedTuple

from stn_lightning.cli.options import Options
from stn_lightning.cli.runs import RUNS
from stn_lightning.files import MACHINE, alive

SILENT = 10
"""Epochs' time without a sign of life after which a run counts as lost."""


class Line(NamedTuple):
    """What is said of a run."""

    name: str
    state: str
    epoch: str
    error: str
    left: str
    job: str


def status(arguments: list[str]) -> int:
    """Print a line for each run: what it is doing, its epoch, error, time left and job number.

    Returns:
        the process's exit code: 0, or 2 where the user got something wrong.
    """
    options = Options("status", "How far the runs in runs/ are, the latest last.")
    options.add_argument("runs", nargs="*", metavar="RUN", help="names of runs; all when left out")
    chosen = options.parse_args(arguments)
    files = [RUNS / name / "state.json" for name in chosen.runs] or list(RUNS.glob("*/state.json"))
    for file in files:
        if not file.exists():
            options.error(f"{file.parent} has no state.json, so nothing was ever trained there")
    states = {file.parent.name: json.loads(file.read_text()) for file in files}
    lines = [Line("run", "state", "epoch", "error", "time left", "job")]
    lines += [line(name, state) for name, state in sorted(states.items(), key=lambda item: item[1]["time"])]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    print("\n".join("  ".join(word.ljust(width) for word, width in zip(row, widths, strict=True)).rstrip() for row in lines))
    return 0


def line(name: str, state: dict[str, Any]) -> Line:
    """A run's state in words. One that says it is training, but of which nothing is heard, is lost."""
    doing, metrics = state["doing"], state["metrics"]
    if doing == "training" and _lost(state):
        doing = "lost"
    left = ""
    if doing == "training" and state["epochs"] and state["epoch_seconds"]:
        seconds = (state["epochs"] - state["epoch"]) * state["epoch_seconds"] - (time.time() - state["time"])
        left = f"{max(seconds, 0) / 60:.0f} min"
    key = "test/error" if "test/error" in metrics and doing == "tested" else "val/error"
    error = f"{metrics[key]:.2f} % {key.partition('/')[0]}" if key in metrics else ""
    said = f"{doing}: {state['why']}" if doing == "failed" and state["why"] else doing
    return Line(name, said, f"{state['epoch']}/{state['epochs'] or '?'}", error, left, state["job"] or "")


def _lost(state: dict[str, Any]) -> bool:
    if state["machine"] == MACHINE:
        return not alive(state["process"])
    return bool(state["epoch_seconds"]) and time.time() - state["time"] > SILENT * state["epoch_seconds"]

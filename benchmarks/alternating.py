"""Run cases in alternation and print a table of medians.

Other work on the machine slows consecutive cases alike. So a ratio is the median of the ratios of
all rounds; it means something where the times alone do not. Each table says where it was measured.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from argparse import Namespace
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from stn_lightning.callbacks.record_writer import device_name
from stn_lightning.runtime.memory import keep_freed_memory
from stn_lightning.runtime.provenance import commit

PACKAGES = ("torch", "torchvision", "lightning", "kornia")
LOAD = os.getloadavg()[0]
"""At the start: what else ran."""


def chosen(description: str | None, rounds: int) -> Namespace:
    """Read the options that all benchmarks have: quick, rounds.

    Memory is allocated as in `stn fit`, for all cases.
    """
    keep_freed_memory()
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--quick", action="store_true", help="few and small cases, one or two rounds: does it run?"
    )
    parser.add_argument("--rounds", type=int, metavar="N", help=f"{rounds} by default")
    parser.add_argument(
        "--processor",
        action="store_true",
        help="one thread, processor time instead of the wall's: for a busy machine",
    )
    options = parser.parse_args()
    options.clock = time.process_time if options.processor else time.perf_counter
    if options.processor:
        torch.set_num_threads(1)
    options.rounds = options.rounds or (2 if options.quick else rounds)
    return options


def alternate(
    cases: Mapping[str, Callable[[], object]],
    rounds: int,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, list[float]]:
    """Return the seconds of each case in each round.

    The first round warms up and is left out.
    """
    seconds: dict[str, list[float]] = {name: [] for name in cases}
    for _ in range(rounds + 1):
        for name, case in cases.items():
            start = clock()
            case()
            seconds[name].append(clock() - start)
    return {name: taken[1:] for name, taken in seconds.items()}


def times_as_long(one: Sequence[float], other: Sequence[float]) -> float:
    """Return the median ratio of two cases' times."""
    return statistics.median(b / a for a, b in zip(one, other, strict=True))


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Return a Markdown table, numbers with three digits."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(_cell(cell) for cell in line) + " |" for line in lines)


def report(
    title: str, body: str, notes: str, rounds: int, device: str | torch.device = "cpu"
) -> None:
    """Print a section of docs/speed.md."""
    versions = ", ".join(f"{name} {_version(name)}" for name in PACKAGES)
    where = f"{device_name(torch.device(device))}, load {LOAD:.1f} to {os.getloadavg()[0]:.1f}"
    module = Path(sys.argv[0]).stem
    source = (
        f"`python -m benchmarks.{module}`: medians of {rounds} alternating rounds; {where}; "
        f"{versions}; commit {commit()}; {datetime.now(UTC).date()}."
    )
    print(f"### {title}\n\n{body}\n\n{notes}\n\n{source}\n", flush=True)


def _cell(value: object) -> str:
    if not isinstance(value, float):
        return str(value)
    return (
        f"{value:,.0f}"
        if abs(value) >= 1000
        else f"{value:.3g}"
        if abs(value) < 100
        else f"{value:.0f}"
    )


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "missing"


def in_a_process(command: Sequence[str]) -> dict[str, Any]:
    """Run a process and read its last line as JSON."""
    run = subprocess.run([sys.executable, *command], capture_output=True, text=True)
    lines = run.stdout.strip().splitlines()
    if run.returncode or not lines:
        raise RuntimeError(
            f"{' '.join(command)} ended with exit code {run.returncode}: "
            f"{run.stderr.strip()[-2000:]}"
        )
    return dict(json.loads(lines[-1]))

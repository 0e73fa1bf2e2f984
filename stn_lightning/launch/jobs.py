"""Run several commands in parallel and stop them together."""

import os
import subprocess
import sys
import time
from collections.abc import Generator, Iterable
from pathlib import Path
from typing import NamedTuple

from stn_lightning.runtime import signals


def run_options(configs: Iterable[Path], name: str) -> list[str]:
    """Return `stn fit`'s options for a run."""
    return [*(part for path in configs for part in ("--config", str(path))), "--name", name]


def fit(options: Iterable[str]) -> list[str]:
    """Return the command `stn fit` with these options."""
    return [sys.executable, "-m", "stn_lightning", "fit", *options]


class Job(NamedTuple):
    """A command and the file for its output."""

    command: list[str]
    log: Path


class Ended(NamedTuple):
    """A job that has ended."""

    job: Job
    exit_code: int
    seconds: float


def run_jobs(jobs: list[Job], at_once: int) -> Generator[Ended]:
    """Run jobs in parallel; yield ended ones.

    Each job gets an equal share of the processor's cores, and of several parallel jobs each gets
    one GPU, if there are any. After a signal to this process no further
    job starts; the running ones get SIGTERM, and are yielded when they have ended.

    Args:
        jobs: commands to run.
        at_once: number of jobs that run at the same time.
    """
    environment = {
        "OMP_NUM_THREADS": str(max(len(os.sched_getaffinity(0)) // at_once, 1)),
        **os.environ,
    }
    gpus = _visible_gpus() if at_once > 1 else []
    waiting, terminated, free = list(jobs), False, list(range(at_once))
    running: list[tuple[Job, subprocess.Popen[bytes], float, int]] = []
    try:
        while running or (waiting and not signals.caught_signal()):
            while waiting and len(running) < at_once and not signals.caught_signal():
                job, place = waiting.pop(0), free.pop(0)
                own = {"CUDA_VISIBLE_DEVICES": gpus[place % len(gpus)]} if gpus else {}
                process = _start(job, environment | own)
                running.append((job, process, time.monotonic(), place))
            if signals.caught_signal() and not terminated:
                terminated = True
                for _, process, *_ in running:
                    process.terminate()
            for entry in [entry for entry in running if entry[1].poll() is not None]:
                running.remove(entry)
                free.append(entry[3])
                yield Ended(entry[0], entry[1].returncode, time.monotonic() - entry[2])
            time.sleep(0.1)
    finally:
        for _, process, *_ in running:  # after an error, or when the caller stops early
            process.terminate()
        for _, process, *_ in running:  # they save before they end
            process.wait()


def _visible_gpus() -> list[str]:
    """Return the GPUs that this process may use."""
    import torch  # slow

    chosen = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    count = torch.cuda.device_count()
    return chosen.split(",")[:count] if chosen else [str(n) for n in range(count)]


def _start(job: Job, environment: dict[str, str]) -> subprocess.Popen[bytes]:
    job.log.parent.mkdir(parents=True, exist_ok=True)
    with job.log.open("ab") as log:
        # in its own process group, so that Ctrl-C reaches only this process
        return subprocess.Popen(
            job.command, stdout=log, stderr=subprocess.STDOUT, env=environment, process_group=0
        )

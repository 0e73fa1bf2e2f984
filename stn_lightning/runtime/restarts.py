"""Limit restarts without progress.

Job scripts and launchers restart a training after it has lost a process. If it fails again each
time, it would be restarted for ever. Standard library only.
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from stn_lightning.runtime.atomic_files import atomic_write, only_informs

RESTARTS = "restarts.json"
"""Name of the file with the count in a run's folder."""

LIMIT = 3
COUNTERS = ("SLURM_RESTART_COUNT", "TORCHELASTIC_RESTART_COUNT")
"""Variables in which SLURM and torchrun count their restarts."""


class NoProgressError(RuntimeError):
    """A training was restarted several times without progress."""


def is_restart(environment: Mapping[str, str] = os.environ) -> bool:
    """Return True if SLURM or torchrun has restarted this process."""
    return any(environment.get(name, "0") not in ("", "0") for name in COUNTERS)


def started_by_this_job(file: Path, environment: Mapping[str, str] = os.environ) -> bool:
    """Return True if this job wrote the file before."""
    return _read(file).get("job") == _job(environment)


def _job(environment: Mapping[str, str]) -> str:
    """Return the job of SLURM or torchrun; "" without one."""
    return environment.get("SLURM_JOB_ID") or environment.get("TORCHELASTIC_RUN_ID", "")


def count_restart(file: Path, batches: int, environment: Mapping[str, str] = os.environ) -> None:
    """Count restarts in a row without progress.

    Rank 0 calls it before training. A start by hand resets the count.

    Args:
        file: file with the count, in the run's folder.
        batches: number of training batches before the checkpoint to resume from; 0 if there is
            none.
        environment: environment variables of this process.

    Raises:
        NoProgressError: `LIMIT` restarts in a row made no progress.
    """
    before = _read(file)
    stuck = is_restart(environment) and batches <= before.get("batches", -1)
    count = before.get("without_progress", 0) + 1 if stuck else 0
    if count >= LIMIT:
        raise NoProgressError(
            f"restarted {LIMIT} times without a step beyond batch {batches}; the first error above "
            f"is the cause. Correct it and start again by hand ({file} has the count)"
        )
    with only_informs(file), atomic_write(file) as out:
        state = {"batches": batches, "without_progress": count, "job": _job(environment)}
        out.write(json.dumps(state).encode())


def _read(file: Path) -> dict[str, Any]:
    """Return the file's content; {} if it is unreadable."""
    try:
        content = json.loads(file.read_text())
        numbers = {key: int(content[key]) for key in ("batches", "without_progress")}
        return {**numbers, "job": content.get("job")}
    except (OSError, ValueError, TypeError, KeyError):
        return {}

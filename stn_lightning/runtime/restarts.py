"""A limit for restarts that make no progress.

Job scripts and launchers start a training again after it has lost a process. Where the cause comes
back each time, it would be started for ever. Standard library only.
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path

from stn_lightning.runtime.atomic_files import atomic_write, only_informs

LIMIT = 3
COUNTERS = ("SLURM_RESTART_COUNT", "TORCHELASTIC_RESTART_COUNT")
"""Variables in which SLURM and torchrun count their restarts."""


class NoProgressError(RuntimeError):
    """A training was restarted several times and came no further."""


def count_restart(file: Path, batches: int, environment: Mapping[str, str] = os.environ) -> None:
    """Count a start that has come no further.

    Rank 0 calls it before training. A start by a person begins the count anew.

    Args:
        file: keeps the count, in the run's folder.
        batches: training batches that the checkpoint holds from which this start resumes; 0 for
            none.
        environment: variables of this process.

    Raises:
        NoProgressError: if `LIMIT` restarts in a row made no progress.
    """
    before = _read(file)
    restarted = any(environment.get(name, "0") not in ("", "0") for name in COUNTERS)
    stuck = restarted and batches <= before.get("batches", -1)
    count = before.get("without_progress", 0) + 1 if stuck else 0
    if count >= LIMIT:
        raise NoProgressError(
            f"restarted {LIMIT} times without a step beyond batch {batches}; the first error above "
            f"is the cause. Mend it and start again by hand ({file} keeps the count)"
        )
    with only_informs(file), atomic_write(file) as out:
        out.write(json.dumps({"batches": batches, "without_progress": count}).encode())


def _read(file: Path) -> dict[str, int]:
    """Return what the last start wrote, if readable."""
    try:
        content = json.loads(file.read_text())
        return {key: int(value) for key, value in content.items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}

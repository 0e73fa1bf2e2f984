"""Killed any number of times, a training ends in the same weights to the last bit."""

import random
import time
from pathlib import Path
from typing import Any

import pytest

from tests.reliability.processes import finish, log, run, running, wait_for
from tests.reliability.training import Slowly, record
from tests.runtime.test_checkpoint_io import names

SETTINGS: dict[str, Any] = {
    "ema": True,
    "accumulate_grad_batches": 2,
    "val_check_interval": 4,
    "seconds": 0.0,
}


def told(folder: Path) -> list[Any]:
    """What the training wrote down, each line once: what was lost by a kill is done again, and must
    come to the same.
    """
    lines: list[Any] = []
    for line in sorted(record(folder), key=repr):
        if line not in lines[-1:]:
            lines.append(line)
    return lines


@pytest.mark.parametrize(
    ("ranks", "kills"),
    [
        (1, 3),
        pytest.param(1, 20, marks=pytest.mark.slow),
        pytest.param(2, 10, marks=pytest.mark.slow),
    ],
)
def test_a_training_that_is_killed_again_and_again_ends_in_the_same_weights(
    tmp_path: Path, ranks: int, kills: int
) -> None:
    settings = {**SETTINGS, "epochs": 3 + kills // 2}
    straight, killed = tmp_path / "straight", tmp_path / "killed"
    assert run(straight, ranks=ranks, **settings) == [0] * ranks, log(straight)
    killed.mkdir()
    done, left = 0, 0
    while done < kills:
        with running(killed, Slowly(0.005), ranks=ranks, **settings) as processes:
            lines = len(record(killed)) if (killed / "record.jsonl").exists() else 0
            wait_for(lines + ranks, killed)
            time.sleep(random.uniform(0, 0.05))
            random.choice(processes).kill()
            codes = finish(processes)
            assert -9 in codes, f"it ended before it was killed, after {done} kills; {log(killed)}"
        done += 1
        left += len([name for name in names(killed / "checkpoints") if name.endswith(".tmp")])
    assert run(killed, ranks=ranks, **settings) == [0] * ranks, log(killed)
    assert names(killed / "checkpoints") == ["best.ckpt", "last.ckpt"], (
        f"{left} temporary files were left by kills, and not all swept"
    )
    assert told(killed) == told(straight)

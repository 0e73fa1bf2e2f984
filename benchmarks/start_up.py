"""Time help, version and the first step of a training.

python -m benchmarks.start_up [--quick]
"""

import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from lightning import Callback, LightningModule, Trainer

from benchmarks.alternating import alternate, chosen, report, table

ROOT = Path(__file__).parents[1]
STN = [sys.executable, "-m", "stn_lightning"]
FIRST_STEP = [
    "fit",
    f"--config={ROOT}/configs/quickstart.yaml",
    "--trainer.callbacks+=benchmarks.start_up.FirstStep",
    "--name=bench",
]
GOALS = {
    "stn --help": 1.0,
    "stn --version": 1.0,
    "stn fit --help": 6.0,
    "first step (quickstart)": 10.0,
}


class FirstStep(Callback):
    """End the process after the first step."""

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        os._exit(0)


def main() -> None:
    options = chosen(__doc__, 3)
    with tempfile.TemporaryDirectory() as folder:
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}

        def run(*arguments: str) -> None:
            subprocess.run(
                [*STN, *arguments],
                check=True,
                stdout=subprocess.DEVNULL,
                cwd=folder,
                env=environment,
            )

        cases = {
            "stn --help": lambda: run("--help"),
            "stn --version": lambda: run("--version"),
            "stn fit --help": lambda: run("fit", "--help"),
            "first step (quickstart)": lambda: run(*FIRST_STEP),
        }
        rounds = 1 if options.quick else options.rounds
        taken = alternate(cases, rounds)
    rows = [
        [name, f"{statistics.median(seconds):.2f}", f"{GOALS[name]:.0f}"]
        for name, seconds in taken.items()
    ]
    notes = (
        "Whole processes, files cached. Most of the time goes into importing PyTorch and Lightning."
    )
    report("Start-up", table(["", "seconds", "goal"], rows), notes, rounds)


if __name__ == "__main__":
    main()

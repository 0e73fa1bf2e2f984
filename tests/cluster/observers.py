"""Where the processes of a job find themselves, and a step at which they wait for what is to happen
to them.
"""

import json
import os
import time
from pathlib import Path
from typing import Any

from lightning import Callback, LightningModule, Trainer

from stn_lightning.runtime import signals


class Place(Callback):
    """Writes a line for each process when it starts to train: SLURM's job, rank, ranks, node's
    rank, rank on it, host, first host.
    """

    def __init__(self, file: Path) -> None:
        self.file = file

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        ranks = [trainer.global_rank, trainer.world_size, trainer.node_rank, trainer.local_rank]
        place = [
            os.environ.get("SLURM_JOB_ID"),
            *ranks,
            os.uname().nodename,
            os.environ.get("MASTER_ADDR"),
        ]
        with self.file.open("a") as file:
            file.write(json.dumps(place) + "\n")


class Linger(Callback):
    """Waits at the end of a step until a signal comes, at most `seconds`; not in a job that has
    come back.
    """

    def __init__(self, step: int, seconds: float = 120) -> None:
        self.step, self.seconds = step, seconds

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        end = time.monotonic() + self.seconds
        while (
            trainer.global_step == self.step
            and "SLURM_RESTART_COUNT" not in os.environ
            and time.monotonic() < end
        ):
            if signals.caught_signal():
                return
            time.sleep(0.05)

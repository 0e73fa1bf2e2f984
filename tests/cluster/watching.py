"""Where the processes of a job find themselves."""

import json
import os
from pathlib import Path

from lightning import Callback, LightningModule, Trainer


class Place(Callback):
    """Writes a line for each process when it starts to train: SLURM's job, rank, ranks, node's rank, rank on it, host, first host."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        ranks = [trainer.global_rank, trainer.world_size, trainer.node_rank, trainer.local_rank]
        place = [os.environ.get("SLURM_JOB_ID"), *ranks, os.uname().nodename, os.environ.get("MASTER_ADDR")]
        with self.file.open("a") as file:
            file.write(json.dumps(place) + "\n")

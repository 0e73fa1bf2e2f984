import time
from unittest.mock import create_autospec

import torch
from lightning import LightningModule, Trainer

from stn_lightning.batch import Batch
from stn_lightning.callbacks import ThroughputLogger

TRAINER = create_autospec(Trainer, instance=True, world_size=1)
MODULE = create_autospec(LightningModule, instance=True)


def batch(pictures: int, share: float = 1.0) -> Batch:
    return Batch(
        torch.zeros(pictures, 1, 2, 2),
        torch.zeros(pictures).long(),
        torch.arange(pictures),
        0,
        share,
        "train",
    )


def step(throughput: ThroughputLogger, seconds: float, ranks: int = 1, share: float = 1.0) -> None:
    throughput.on_train_batch_start(TRAINER, MODULE, batch(10, share), 0)
    time.sleep(seconds)
    throughput.on_train_batch_end(
        create_autospec(Trainer, instance=True, world_size=ranks), MODULE, None, batch(10, share), 0
    )


def test_pictures_of_all_processes_count() -> None:
    throughput = ThroughputLogger()
    step(throughput, 0, ranks=2, share=20 / 19)  # 10 of the 19 pictures of a global batch
    assert throughput.samples == 19


def test_validation_does_not_count_as_training() -> None:
    throughput = ThroughputLogger()
    throughput.on_train_epoch_start(TRAINER, MODULE)
    step(throughput, 0.02)
    throughput.on_validation_start(TRAINER, MODULE)
    time.sleep(0.3)
    step(throughput, 0.02)
    throughput.on_validation_start(TRAINER, MODULE)
    assert 0.04 <= throughput.seconds < 0.25


def test_totals_go_on_after_a_restart() -> None:
    throughput, restarted = ThroughputLogger(), ThroughputLogger()
    step(throughput, 0.01)
    state = throughput.state_dict()
    restarted.load_state_dict(state)
    step(restarted, 0)
    assert restarted.samples == 20
    assert restarted.seconds >= state["seconds"] >= 0.01
    assert restarted.images_per_second == restarted.samples / restarted.seconds


def test_before_the_first_picture_the_rate_is_zero() -> None:
    assert ThroughputLogger().images_per_second == 0

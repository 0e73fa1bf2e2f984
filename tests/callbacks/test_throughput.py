"""Throughput: what counts as training, on several processes and after a restart."""

import time
from unittest.mock import create_autospec

import pytest
import torch
from lightning import LightningModule, Trainer

from stn_lightning.batch import Batch
from stn_lightning.callbacks import ThroughputLogger

TRAINER = create_autospec(Trainer, instance=True, world_size=1)
MODULE = create_autospec(LightningModule, instance=True)


class Clock:
    """Stands still until it is told to go on."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(time, "perf_counter", clock)
    return clock


def batch(share: float) -> Batch:
    """Ten images."""
    image, label = torch.zeros(10, 1, 2, 2), torch.zeros(10).long()
    return Batch(image, label, torch.arange(10), 0, share, "train")


def step(
    throughput: ThroughputLogger, clock: Clock, seconds: float, ranks: int = 1, share: float = 1.0
) -> None:
    throughput.on_train_batch_start(TRAINER, MODULE, batch(share), 0)
    clock.now += seconds
    trainer = create_autospec(Trainer, instance=True, world_size=ranks)
    throughput.on_train_batch_end(trainer, MODULE, None, batch(share), 0)


def test_images_of_all_processes_count(clock: Clock) -> None:
    throughput = ThroughputLogger()
    step(throughput, clock, 0, ranks=2, share=20 / 19)  # 10 of the 19 images of a global batch
    assert throughput.samples == 19


def test_validation_does_not_count_as_training(clock: Clock) -> None:
    throughput = ThroughputLogger()
    throughput.on_train_epoch_start(TRAINER, MODULE)
    for _ in range(2):
        step(throughput, clock, 2)
        throughput.on_validation_start(TRAINER, MODULE)
        clock.now += 30
    assert throughput.seconds == 4
    assert throughput.images_per_second == 5


def test_totals_go_on_after_a_restart(clock: Clock) -> None:
    throughput, restarted = ThroughputLogger(), ThroughputLogger()
    step(throughput, clock, 2)
    restarted.load_state_dict(throughput.state_dict())
    step(restarted, clock, 3)
    assert restarted.state_dict() == {"samples": 20, "seconds": 5}


def test_before_the_first_image_the_rate_is_zero() -> None:
    assert ThroughputLogger().images_per_second == 0

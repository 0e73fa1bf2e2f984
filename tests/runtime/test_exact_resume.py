import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from stn_lightning.runtime import exact_resume
from stn_lightning.runtime.checkpoint_io import AtomicCheckpointIO, load_checkpoint
from stn_lightning.runtime.exact_resume import random_state, set_random_state
from stn_lightning.runtime.preemption import Preempted
from tests.reliability.training import END, SIZES, Do, record, stop, train

pytestmark = [
    pytest.mark.filterwarnings(
        "ignore:The '.*_dataloader' does not have many workers"
    ),  # the data are in memory
    pytest.mark.filterwarnings(
        "ignore:This DataLoader will create 2 worker processes"
    ),  # on a machine with one processor
    pytest.mark.filterwarnings(
        "ignore:You're using the WeightAveraging callback with a model that overrides"
    ),  # it is not sharded
    pytest.mark.filterwarnings(
        "ignore:ReduceLROnPlateau conditioned on metric val/loss which is not available"
    ),  # in the first epoch
]
slow = pytest.mark.slow

SETTINGS: dict[str, dict[str, Any]] = {
    "plain": {},
    "22 steps": {"max_steps": 22},
    "27 steps": {"max_steps": 27},
    "weight averaging": {"ema": True},
    "accumulation": {"accumulate_grad_batches": 3},
    "everything": {
        "ema": True,
        "accumulate_grad_batches": 3,
        "val_check_interval": 4,
        "patience": 2,
        "seconds": 0.0,
        "keep": 2,
    },
    "plateau": {"plateau": True},
    "sparse validation": {
        "check_val_every_n_epoch": 2,
        "plateau": True,
        "patience": 3,
        "epochs": 5,
    },
    "validation by steps": {
        "max_steps": 30,
        "check_val_every_n_epoch": None,
        "val_check_interval": 7,
    },
    "early stopping": {"patience": 1, "epochs": 6},
    "part of an epoch": {"limit_train_batches": 5},
    "no validation": {"limit_val_batches": 0},
    "workers": {"workers": 2},
    "float64": {"precision": "64-true"},
}
Moment = tuple[int, int | None]
"""A training batch, counted from 0 through all epochs of 11, and one of the validation that follows
it.
"""
MOMENTS: list[tuple[str, list[Moment], list[Moment]]] = [  # setting, always, in the slow run
    (
        "plain",
        [(4, None), (10, None), (10, 2), (32, None)],
        [(0, None), (10, 0), (10, 3), (11, None), (21, None), (21, 1), (32, 1)],
    ),
    (
        "22 steps",
        [(10, None), (21, 1)],
        [(0, None), (4, None), (10, 2), (14, None), (20, None), (21, None)],
    ),
    ("27 steps", [(21, 1), (25, None)], [(10, None), (14, None)]),
    ("weight averaging", [(4, None), (10, 2)], [(10, None), (14, None)]),
    ("accumulation", [(4, None)], [(3, None), (5, None), (10, None), (10, 1), (12, None)]),
    (
        "everything",
        [(7, 1), (10, None)],
        [(0, None), (3, None), (3, 0), (4, None), (7, None), (14, None), (14, 3), (32, None)],
    ),
    ("plateau", [(10, 1)], [(4, None), (10, None), (21, 1)]),
    (
        "sparse validation",
        [(26, None)],
        [(10, None), (14, None), (21, None), (21, 2), (32, None), (43, 1), (48, None)],
    ),
    (
        "validation by steps",
        [(13, 1)],
        [(4, None), (6, None), (6, 0), (10, None), (11, None), (27, 2), (28, None)],
    ),
    ("early stopping", [(10, 1)], [(10, None), (21, 0), (14, None)]),
    ("part of an epoch", [(4, None)], [(2, None), (4, 1), (7, None)]),
    ("no validation", [(10, None)], [(4, None), (11, None)]),
    ("workers", [(4, None)], [(10, None), (10, 1), (12, None)]),
    ("float64", [(4, None)], [(10, 1)]),
]
STOPS = [
    *(
        pytest.param(setting, moment, id=f"{setting}-{moment}")
        for setting, always, _ in MOMENTS
        for moment in always
    ),
    *(
        pytest.param(setting, moment, id=f"{setting}-{moment}", marks=slow)
        for setting, _, rarely in MOMENTS
        for moment in rarely
    ),
]


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], list[Any]]:
    """What a training that never stopped writes down, once for each setting."""
    records: dict[str, list[Any]] = {}

    def of(setting: str) -> list[Any]:
        if setting not in records:
            folder = tmp_path_factory.mktemp("uninterrupted")
            train(folder, **SETTINGS[setting])
            records[setting] = record(folder)
        return records[setting]

    return of


@pytest.mark.parametrize(("setting", "moment"), STOPS)
def test_a_training_that_was_stopped_goes_on_as_if_it_never_had(
    uninterrupted: Callable[[str], list[Any]], tmp_path: Path, setting: str, moment: Moment
) -> None:
    with pytest.raises(Preempted):
        train(tmp_path, Do(stop, *moment), **SETTINGS[setting])
    train(tmp_path, **SETTINGS[setting])
    assert record(tmp_path) == uninterrupted(
        setting
    )  # losses, rates, images, validations, weights: to the last bit


def test_every_image_is_seen_once_an_epoch_however_often_it_stops(tmp_path: Path) -> None:
    stops = 0
    for batch in (0, 3, 9, 10, 11, 15, 21):
        with pytest.raises(Preempted):
            train(tmp_path, Do(stop, batch), epochs=2)
        stops += 1
    train(tmp_path, epochs=2)
    for epoch in (0, 1):
        seen = [
            index for line in record(tmp_path, "train") if line[2] == epoch for index in line[7]
        ]
        assert sorted(seen) == list(range(SIZES["train"]))
    assert stops == 7


def test_after_its_end_a_training_goes_on_exactly_when_it_is_given_more_epochs(
    uninterrupted: Callable[[str], list[Any]], tmp_path: Path
) -> None:
    short = {
        **SETTINGS["plateau"],
        "epochs": 1,
    }  # a plateau's schedule does not depend on the number of epochs
    train(tmp_path, **short)
    train(tmp_path, **SETTINGS["plateau"])
    repeated = [
        line
        for line in record(tmp_path)
        if line != ["val", 0, 0, 11, line[-1]] and line[:3] != ["epoch", 0, 0]
    ]
    once = [
        line
        for line in uninterrupted("plateau")
        if line != ["val", 0, 0, 11, line[-1]] and line[:3] != ["epoch", 0, 0]
    ]
    assert repeated == once


def test_a_training_by_steps_that_ended_within_an_epoch_goes_on_there_when_it_is_given_more(
    tmp_path: Path,
) -> None:
    straight, longer = tmp_path / "straight", tmp_path / "longer"
    train(straight, plateau=True, max_steps=40)
    for steps in (16, 40):
        train(longer, plateau=True, max_steps=steps)
    lines = record(longer)
    lines.remove(
        next(line for line in lines if line[0] == "epoch" and line[2] == 1)
    )  # which the first 16 steps ended too early
    assert lines == record(straight)


def test_a_crash_at_the_end_of_an_epoch_repeats_that_end(tmp_path: Path) -> None:
    straight, crashed = tmp_path / "straight", tmp_path / "crashed"
    settings: dict[str, Any] = {"limit_val_batches": 0, "seconds": 0.0}
    train(straight, **settings)

    def crash() -> None:
        raise KeyError("crash")

    with pytest.raises(KeyError):
        train(crashed, Do(crash, 10, END), **settings)
    lines = record(crashed)
    train(crashed, **settings)
    assert lines[-2:] == record(crashed)[12:14] == record(straight)[10:12], (
        "the last batch, and the end of the epoch"
    )
    assert record(crashed)[12:] == record(straight)[10:]


@pytest.mark.filterwarnings(
    "ignore:Checkpoint directory .* exists and is not empty"
)  # it is gone on from
def test_a_checkpoint_of_lightnings_own_callback_resumes_exactly_too(tmp_path: Path) -> None:
    straight, resumed = tmp_path / "straight", tmp_path / "resumed"
    own = ModelCheckpoint(tmp_path / "own", "{step}", every_n_train_steps=11, save_top_k=-1)
    train(straight, own, limit_val_batches=0)
    for step in (11, 22):
        own = ModelCheckpoint(tmp_path / "own", "{step}", every_n_train_steps=11, save_top_k=-1)
        train(
            resumed / str(step),
            own,
            limit_val_batches=0,
            resume=tmp_path / "own" / f"step={step}.ckpt",
        )
        assert record(resumed / str(step)) == record(straight)[step + step // 11 :]


def test_random_numbers_go_on_where_they_were_saved(tmp_path: Path) -> None:
    random.seed(3)
    np.random.seed(3)  # noqa: NPY002
    random.gauss(0, 1)  # leaves half of a pair behind
    np.random.normal()  # noqa: NPY002  # likewise
    cpu = torch.device("cpu")
    AtomicCheckpointIO().save_checkpoint(random_state(cpu), tmp_path / "state.ckpt")

    def draw() -> list[float]:
        return [
            random.random(),
            random.gauss(0, 1),
            float(np.random.normal()),  # noqa: NPY002  # what is restored
            float(np.random.random()),  # noqa: NPY002
            float(torch.rand(())),
        ]

    expected = draw()
    assert draw() != expected
    set_random_state(load_checkpoint(tmp_path / "state.ckpt"), cpu)
    assert draw() == expected


def test_the_records_that_are_compared_hold_what_they_should(
    uninterrupted: Callable[[str], list[Any]],
) -> None:
    lines = uninterrupted("plain")
    assert [sum(line[0] == kind for line in lines) for kind in ("train", "val", "epoch")] == [
        33,
        3,
        3,
    ]
    assert len({line[5] for line in lines if line[0] == "train"}) == 33, (
        "no two losses are the same"
    )
    assert len({json.dumps(line[7]) for line in lines if line[0] == "train"}) == 33, (
        "nor two batches"
    )


def test_processes_that_would_go_on_at_different_batches_are_stopped(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def reduced_with(other: int) -> None:
        largest = {10: max(10, other), -10: max(-10, -other)}
        monkeypatch.setattr(exact_resume, "all_reduce_max", largest.__getitem__)

    reduced_with(10)
    exact_resume.refuse_different_positions(10)
    reduced_with(25)
    with pytest.raises(RuntimeError, match=r"after batch 10 and after batch 25, .* start again"):
        exact_resume.refuse_different_positions(10)

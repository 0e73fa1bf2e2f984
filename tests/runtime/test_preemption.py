import os
import random
import signal
import time
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

import pytest
from lightning import Callback, LightningModule, Trainer

from stn_lightning.runtime import signals
from stn_lightning.runtime.checkpoint_io import newest_loadable
from stn_lightning.runtime.checkpointing import AtomicCheckpoint
from stn_lightning.runtime.preemption import Preempted, Preemption
from tests.reliability.processes import finish, log, run, running, wait_for
from tests.reliability.training import Do, Slowly, hang, record, train

pytestmark = [
    pytest.mark.filterwarnings(
        "ignore:The '.*_dataloader' does not have many workers"
    ),  # the data are in memory
]
LINES = 3 * (11 + 1 + 1)
"""of the record of an uninterrupted training, for each process"""


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> dict[int, list[Any]]:
    """What a training writes down on one and on two processes."""
    records = {}
    for ranks in (1, 2):
        folder = tmp_path_factory.mktemp(f"on {ranks}")
        assert run(folder, ranks=ranks) == [0] * ranks, log(folder)
        records[ranks] = by_rank(folder)
    return records


def by_rank(folder: Path) -> list[Any]:
    return sorted(record(folder), key=lambda line: line[1])


@pytest.mark.parametrize("number", signals.SIGNALS)
def test_a_signal_ends_the_training_with_exit_code_75_and_says_what_is_saved(
    tmp_path: Path, number: signal.Signals, monkeypatch: pytest.MonkeyPatch
) -> None:
    def receive() -> None:
        signal.raise_signal(number)

    codes: list[int] = []
    monkeypatch.setattr(signals, "set_exit_code", codes.append)
    with pytest.raises(Preempted) as leaving:
        train(tmp_path, Do(receive, 5))
    assert codes == [75], "of a process that cannot end by itself"
    last = tmp_path / "checkpoints" / "last.ckpt"
    assert str(leaving.value) == f"stopped by {number.name}; {last} has everything up to step 6"
    assert isinstance(leaving.value, SystemExit)
    assert leaving.value.code == 75


def test_a_signal_before_the_training_ends_it_before_the_first_step(tmp_path: Path) -> None:
    signals.start_listening()
    signal.raise_signal(signal.SIGTERM)
    with pytest.raises(Preempted, match=r"^stopped by SIGTERM$"):
        train(tmp_path)
    assert not (tmp_path / "record.jsonl").exists()


def test_a_training_that_is_not_signalled_gives_the_signals_back(tmp_path: Path) -> None:
    before = [signal.getsignal(number) for number in signals.SIGNALS]
    during: list[Any] = []
    train(
        tmp_path,
        Do(lambda: during.extend(signal.getsignal(number) for number in signals.SIGNALS), 3),
        epochs=1,
    )
    assert [signal.getsignal(number) for number in signals.SIGNALS] == before
    assert all("signals" in handler.__func__.__module__ for handler in during), "not Lightning's"


def test_a_training_that_fails_gives_the_signals_back(tmp_path: Path) -> None:
    before = [signal.getsignal(number) for number in signals.SIGNALS]

    def fail() -> None:
        raise RuntimeError("an error of the user's own")

    with pytest.raises(RuntimeError, match="the user's own"):
        train(tmp_path, Do(fail, 3))
    assert [signal.getsignal(number) for number in signals.SIGNALS] == before


@pytest.mark.parametrize("command", ["validate", "test", "predict"])
def test_an_evaluation_is_left_between_two_batches(tmp_path: Path, command: str) -> None:
    class Signalled(Callback):
        batches = 0

        def count(self, *_: Any) -> None:
            self.batches += 1
            if self.batches == 2:
                signal.raise_signal(signal.SIGUSR1)

        on_validation_batch_start: Any = count
        on_predict_batch_start: Any = count
        on_test_batch_start: Any = count

    trainer, signalled = train(tmp_path, epochs=1), Signalled()
    trainer.callbacks.append(signalled)  # type: ignore[attr-defined]
    with pytest.raises(Preempted, match=r"^stopped by SIGUSR1$"):
        getattr(trainer, command)(trainer.lightning_module, datamodule=trainer.datamodule)  # type: ignore[attr-defined]
    assert signalled.batches == 2


def test_without_checkpoints_it_is_refused(tmp_path: Path) -> None:
    trainer = Trainer(
        accelerator="cpu", logger=False, enable_checkpointing=False, default_root_dir=tmp_path
    )
    with pytest.raises(ValueError, match="Preemption saves by AtomicCheckpoint"):
        Preemption().setup(trainer, LightningModule(), "fit")


def test_it_is_called_after_callbacks_that_are_given_after_it(tmp_path: Path) -> None:
    class Late(Callback):
        seen = 0

        def on_train_batch_end(self, *_: Any) -> None:
            self.seen += 1

    trainer = Trainer(
        accelerator="cpu",
        logger=False,
        callbacks=[AtomicCheckpoint(tmp_path), Preemption(), Late()],
    )
    assert [type(callback) for callback in trainer.callbacks][-2:] == [AtomicCheckpoint, Preemption]  # type: ignore[attr-defined]


def send(number: signal.Signals, processes: list[ForkServerProcess]) -> None:
    for process in processes:
        assert process.pid is not None
        os.kill(process.pid, number)


def children(process: ForkServerProcess) -> list[int]:
    return [
        int(child)
        for child in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    ]


def test_workers_are_deaf_to_signals_that_reach_all_processes_of_a_job(
    tmp_path: Path, uninterrupted: dict[int, list[Any]]
) -> None:
    with running(tmp_path, Slowly(), workers=2) as processes:
        wait_for(5, tmp_path)
        workers = children(processes[0])
        assert len(workers) == 2
        for number in signals.SIGNALS:
            for worker in workers:
                os.kill(worker, number)
        wait_for(9, tmp_path)
        assert children(processes[0]) == workers
        send(signal.SIGTERM, processes)
        assert finish(processes) == [75], log(tmp_path)
    assert run(tmp_path, workers=2) == [0]
    assert by_rank(tmp_path) == uninterrupted[1]


@pytest.mark.parametrize("ranks", [1, 2])
def test_a_second_signal_ends_a_stuck_training_at_once_and_harms_nothing(
    tmp_path: Path, ranks: int
) -> None:
    stuck = Do(
        hang, 8, rank=ranks - 1
    )  # with two processes, the first waits in a collective for the second
    with running(tmp_path, stuck, ranks=ranks, seconds=0.0) as processes:
        wait_for(8 * ranks, tmp_path)
        time.sleep(0.5)
        send(signal.SIGINT, processes)
        time.sleep(signals.AGAIN + 0.2)
        begin = time.monotonic()
        send(signal.SIGINT, processes)
        codes = finish(processes, 60)
        assert time.monotonic() - begin < 30
        assert codes == [128 + signal.SIGINT] * ranks, log(tmp_path)
    path, skipped, _ = newest_loadable(tmp_path / "checkpoints")
    assert (path, skipped) == (tmp_path / "checkpoints" / "last.ckpt", ())


TARGETS = {"rank 0": [0], "rank 1": [1], "all ranks": [0, 1]}
ROUNDS = [
    (target, number, repeat)
    for repeat in (0, 1)
    for target in TARGETS
    for number in signals.SIGNALS
]
FIRST = {("rank 0", signal.SIGTERM), ("rank 1", signal.SIGUSR1), ("all ranks", signal.SIGINT)}


@pytest.mark.parametrize(
    ("target", "number", "repeat"),
    [
        pytest.param(*case, marks=() if case[:2] in FIRST and not case[2] else pytest.mark.slow)
        for case in ROUNDS
    ],
)
def test_processes_stop_together_whoever_is_signalled_and_go_on_exactly(
    tmp_path: Path,
    uninterrupted: dict[int, list[Any]],
    target: str,
    number: signal.Signals,
    repeat: int,
) -> None:
    with running(tmp_path, Slowly(), ranks=2) as processes:
        wait_for(random.randint(1, 2 * LINES - 20), tmp_path)
        send(number, [processes[rank] for rank in TARGETS[target]])
        assert finish(processes) == [75, 75], log(tmp_path)
    assert run(tmp_path, ranks=2) == [0, 0], log(tmp_path)
    assert by_rank(tmp_path) == uninterrupted[2]

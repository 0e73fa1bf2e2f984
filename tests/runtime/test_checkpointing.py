import math
import os
import resource
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping

from stn_lightning.runtime.atomic_files import MACHINE
from stn_lightning.runtime.checkpoint_io import BadCheckpointError, load_checkpoint, newest_loadable
from stn_lightning.runtime.checkpointing import AtomicCheckpoint
from stn_lightning.runtime.guards import NonFiniteError
from tests.reliability.training import Do, record, train
from tests.runtime.test_checkpoint_io import files_no_larger_than, names

pytestmark = [
    pytest.mark.filterwarnings(
        "ignore:The '.*_dataloader' does not have many workers"
    ),  # the data are in memory
    pytest.mark.filterwarnings(
        "ignore:You're using the WeightAveraging callback with a model that overrides"
    ),  # it is not sharded
]


class CrashError(RuntimeError):
    pass


def crash() -> None:
    raise CrashError


def nothing_was_trained(folder: Path) -> bool:
    return not (folder / "record.jsonl").exists()


@contextmanager
def without_privileges() -> Iterator[None]:
    """As someone to whom permissions apply, where the tests run as root."""
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(user)


def validations(folder: Path) -> dict[int, float]:
    """Error by step."""
    return {line[3]: line[4]["val/error"] for line in record(folder, "val")}


@pytest.mark.parametrize("ema", [False, True])
def test_the_best_checkpoint_is_the_one_that_was_validated(tmp_path: Path, ema: bool) -> None:
    trainer = train(tmp_path, ema=ema, epochs=6, val_check_interval=5)
    errors = validations(tmp_path)
    assert len(set(errors.values())) > 3, "they differ, so the best can be told"
    best = load_checkpoint(tmp_path / "checkpoints" / "best.ckpt")
    assert best["global_step"] == min(errors, key=lambda step: (errors[step], -step))
    assert load_checkpoint(tmp_path / "checkpoints" / "last.ckpt")["global_step"] == 66
    data: Any = trainer.datamodule  # type: ignore[attr-defined]
    (checkpoints,) = [
        callback
        for callback in trainer.callbacks  # type: ignore[attr-defined]
        if isinstance(callback, AtomicCheckpoint)
    ]
    path = checkpoints.best_model_path
    (again,) = trainer.validate(
        trainer.lightning_module, datamodule=data, ckpt_path=path, weights_only=True, verbose=False
    )
    assert again["val/error"] == min(errors.values())


@pytest.mark.parametrize(("mode", "sign"), [("min", 1), ("max", -1)])
def test_as_many_of_the_best_are_kept_as_asked_for(tmp_path: Path, mode: str, sign: int) -> None:
    train(tmp_path, keep=3, mode=mode, epochs=6, val_check_interval=5)
    errors = validations(tmp_path)
    best = sorted(errors, key=lambda step: (sign * errors[step], -step))[:3]
    assert names(tmp_path / "checkpoints") == sorted(
        [f"step={step:08d}.ckpt" for step in best] + ["best.ckpt", "last.ckpt"]
    )
    assert [
        load_checkpoint(tmp_path / "checkpoints" / f"step={step:08d}.ckpt")["global_step"]
        for step in best
    ] == best
    assert load_checkpoint(tmp_path / "checkpoints" / "best.ckpt")["global_step"] == best[0]


def test_a_resumed_training_keeps_the_best_of_before(tmp_path: Path) -> None:
    straight, resumed = tmp_path / "straight", tmp_path / "resumed"
    train(straight, keep=2, epochs=5)
    for batch in (7, 20, 40):
        with pytest.raises(CrashError):
            train(resumed, Do(crash, batch), keep=2, epochs=5)
        resumed = resumed.rename(tmp_path / f"moved {batch}")  # a moved folder is the same folder
    train(resumed, keep=2, epochs=5)
    assert names(resumed / "checkpoints") == names(straight / "checkpoints")
    assert (
        load_checkpoint(resumed / "checkpoints" / "best.ckpt")["global_step"]
        == load_checkpoint(straight / "checkpoints" / "best.ckpt")["global_step"]
    )


def test_the_best_is_a_copy_that_damage_of_the_last_does_not_reach(tmp_path: Path) -> None:
    best, last = tmp_path / "checkpoints" / "best.ckpt", tmp_path / "checkpoints" / "last.ckpt"
    train(tmp_path, epochs=1)
    assert not best.samefile(last)
    assert best.read_bytes() == last.read_bytes()
    with last.open("r+b") as file:  # a bad sector
        file.seek(2000)
        file.write(b"\0" * 512)
    with pytest.raises(BadCheckpointError):
        load_checkpoint(last)
    assert load_checkpoint(best)["global_step"] == 11


def test_the_best_stays_when_the_last_is_replaced(tmp_path: Path) -> None:
    best = tmp_path / "checkpoints" / "best.ckpt"
    copied = Do(lambda: (tmp_path / "copy").write_bytes(best.read_bytes()), 20)
    train(tmp_path, copied, seconds=0.0, epochs=2)
    assert load_checkpoint(tmp_path / "copy")["global_step"] == 11


def test_what_killed_processes_left_in_the_folder_is_removed_at_the_next_start(
    tmp_path: Path,
) -> None:
    ended = subprocess.Popen(["true"])
    ended.wait()
    left = tmp_path / "checkpoints" / f".last.ckpt.{MACHINE}.{ended.pid}.tmp"
    left.parent.mkdir()
    left.touch()
    train(tmp_path, epochs=1)
    assert names(left.parent) == ["best.ckpt", "last.ckpt"]


@pytest.mark.parametrize(("seconds", "lost"), [(None, 8), (0.0, 1)])
def test_a_crash_loses_no_more_than_the_time_between_savings(
    tmp_path: Path, seconds: float | None, lost: int
) -> None:
    with pytest.raises(CrashError):
        train(tmp_path, Do(crash, 7), seconds=seconds, epochs=1)
    before = len(record(tmp_path, "train"))
    train(tmp_path, seconds=seconds, epochs=1)
    assert record(tmp_path, "train")[before][3] == before - lost


def test_a_full_disk_while_training_costs_nothing_that_was_saved(tmp_path: Path) -> None:
    straight, full = tmp_path / "straight", tmp_path / "full"
    train(straight, epochs=2)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    with files_no_larger_than(10**9), pytest.raises(OSError, match="File too large"):
        train(
            full,
            Do(lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1])), 5),
            seconds=0.0,
            epochs=2,
        )
    assert names(full / "checkpoints") == ["last.ckpt"]
    assert load_checkpoint(full / "checkpoints" / "last.ckpt")["global_step"] == 5
    kept = (full / "record.jsonl").read_text().splitlines()[:5]
    (full / "record.jsonl").write_text("\n".join(kept) + "\n")
    train(full, epochs=2)
    assert record(full) == record(straight)


def test_a_folder_that_cannot_be_written_is_refused_before_the_first_step(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").mkdir(mode=0o500)
    with (
        without_privileges(),
        pytest.raises(OSError, match=r"checkpoints.*(cannot hold checkpoints|Permission denied)"),
    ):
        AtomicCheckpoint(tmp_path / "checkpoints")._prepare(None)
    (tmp_path / "occupied").mkdir()
    (tmp_path / "occupied" / "checkpoints").write_text("a file where the folder should be")
    with pytest.raises(OSError, match=r"checkpoints: cannot hold checkpoints \(File exists\)"):
        train(tmp_path / "occupied")
    assert nothing_was_trained(tmp_path / "occupied")


def test_a_disk_that_is_full_from_the_beginning_is_refused_before_the_first_step(
    tmp_path: Path,
) -> None:
    with files_no_larger_than(20_000), pytest.raises(OSError, match="File too large"):
        train(tmp_path)
    assert nothing_was_trained(tmp_path)
    assert names(tmp_path / "checkpoints") == []


def test_a_disk_that_the_optimizers_moments_will_fill_is_refused_before_the_first_step(
    tmp_path: Path,
) -> None:
    """Weights take 39 kB, with Adam's moments a checkpoint has 117 kB."""
    with files_no_larger_than(70_000), pytest.raises(OSError, match="File too large"):
        train(tmp_path)
    assert nothing_was_trained(tmp_path)
    assert names(tmp_path / "checkpoints") == []


def test_a_disk_with_room_for_fewer_checkpoints_than_are_kept_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil._ntuple_diskusage(10**9, 10**9 - 600_000, 600_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    train(tmp_path / "few", keep=2, epochs=1)
    with pytest.raises(
        OSError, match=r"\d\.\d MB are free on this disk, and 7 checkpoints take \d\.\d MB"
    ):
        train(tmp_path / "many", keep=5, epochs=1)
    assert nothing_was_trained(tmp_path / "many")


class PathInState(Callback):
    def state_dict(self) -> dict[str, Any]:
        return {"path": Path("/somewhere")}


def test_what_could_be_saved_but_never_read_again_is_refused_before_the_first_step(
    tmp_path: Path,
) -> None:
    with pytest.raises(
        TypeError, match=r"cannot be read back.*pathlib.PosixPath.*save only tensors"
    ):
        train(tmp_path, PathInState())
    assert nothing_was_trained(tmp_path)
    assert newest_loadable(tmp_path / "checkpoints").path is None


@pytest.mark.parametrize("sanity", [0, 1])
def test_a_misspelt_monitor_is_refused_before_the_first_step(tmp_path: Path, sanity: int) -> None:
    with pytest.raises(
        ValueError,
        match=r"monitor 'val/eror' is not logged in validation; "
        r"did you mean val/error\? logged metrics: .*val/loss",
    ):
        train(tmp_path, monitor="val/eror", sanity=sanity)
    with pytest.raises(
        ValueError, match=r"monitor 'val/los' is not logged in validation; did you mean val/loss\?"
    ):
        train(tmp_path, EarlyStopping("val/los"), sanity=sanity)
    assert nothing_was_trained(tmp_path)


@pytest.mark.parametrize("sanity", [0, 1])
def test_a_monitor_of_training_is_not_taken_for_a_misspelt_one_of_validation(
    tmp_path: Path, sanity: int
) -> None:
    train(
        tmp_path,
        EarlyStopping("train/loss", check_on_train_epoch_end=True),
        sanity=sanity,
        epochs=1,
    )
    assert len(record(tmp_path, "train")) == 11


@pytest.mark.parametrize("sanity", [0, 1])
@pytest.mark.parametrize("monitor", ["accuracy", "train/loss"])
def test_a_monitor_unlike_any_metric_is_refused_before_the_first_step(
    monitor: str, sanity: int, tmp_path: Path
) -> None:
    with pytest.raises(
        ValueError,
        match=rf"monitor '{monitor}' is not logged in validation; "
        r"(did you .*)?logged metrics: .*val/error",
    ):
        train(tmp_path, monitor=monitor, sanity=sanity)
    assert nothing_was_trained(tmp_path)


class Confidence(Callback):
    """Logs what no task says that it logs."""

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        pl_module.log("confidence", 1.0)


def test_a_monitor_that_only_a_batch_of_validation_shows_is_taken_and_changes_nothing(
    tmp_path: Path,
) -> None:
    train(tmp_path / "known", Confidence(), epochs=1)
    train(tmp_path / "shown", Confidence(), epochs=1, monitor="confidence")
    assert record(tmp_path / "shown", "train", "epoch") == record(
        tmp_path / "known", "train", "epoch"
    )
    assert (tmp_path / "shown/checkpoints/best.ckpt").exists()


@pytest.mark.parametrize("left", [["best.ckpt", "last.ckpt"], ["best.ckpt"], ["last.ckpt"]])
@pytest.mark.parametrize("damaged", [False, True])
def test_another_training_is_not_written_over(
    tmp_path: Path, left: list[str], damaged: bool
) -> None:
    train(tmp_path, epochs=1)
    checkpoints = tmp_path / "checkpoints"
    for file in list(checkpoints.iterdir()):
        if file.name not in left:
            file.unlink()
        elif damaged:
            file.write_bytes(file.read_bytes()[:1000])
    before = {name: (checkpoints / name).read_bytes() for name in left}
    with pytest.raises(ValueError, match=rf"{left[-1]} would be overwritten; resume from it"):
        train(tmp_path, resume=False)
    assert {name: (checkpoints / name).read_bytes() for name in left} == before
    assert names(checkpoints) == left


def test_the_last_checkpoint_is_not_lost_to_a_start_from_an_older_one(tmp_path: Path) -> None:
    mine, other = tmp_path / "mine", tmp_path / "other"
    train(mine, epochs=2)
    train(other, epochs=1)
    for start in (mine / "checkpoints" / "best.ckpt", other / "checkpoints" / "last.ckpt"):
        with pytest.raises(ValueError, match=r"last\.ckpt would be overwritten"):
            train(mine, resume=start)


def test_a_damaged_last_checkpoint_is_stepped_over(tmp_path: Path) -> None:
    train(tmp_path, epochs=2)
    last = tmp_path / "checkpoints" / "last.ckpt"
    beginning = last.read_bytes()[:1000]
    last.write_bytes(beginning)
    with pytest.raises(BadCheckpointError):
        load_checkpoint(last)
    best_step = load_checkpoint(tmp_path / "checkpoints" / "best.ckpt")["global_step"]
    lines = len(record(tmp_path))
    train(tmp_path, epochs=2)
    assert record(tmp_path)[lines][:2] == ["val", 0]
    assert record(tmp_path)[lines][3] == best_step
    assert load_checkpoint(last)["global_step"] == 22


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_score_that_is_no_number_is_an_error_and_no_best(tmp_path: Path, value: float) -> None:
    class Unknown(Callback):
        def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
            trainer.callback_metrics["val/error"].fill_(value)

    with pytest.raises(NonFiniteError, match="val/error is not finite in the validation after 11"):
        train(tmp_path, Unknown(), epochs=1)
    assert names(tmp_path / "checkpoints") == ["last.ckpt"]


def test_of_equal_scores_the_newest_is_the_best(tmp_path: Path) -> None:
    class Equal(Callback):
        def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
            trainer.callback_metrics["val/error"].fill_(0.0)

    train(tmp_path, Equal(), epochs=3)
    assert load_checkpoint(tmp_path / "checkpoints" / "best.ckpt")["epoch"] == 2


def test_a_trial_run_leaves_nothing_behind(tmp_path: Path) -> None:
    train(tmp_path, fast_dev_run=2)
    assert not (tmp_path / "checkpoints").exists()


def test_without_atomic_writing_it_refuses_to_start(tmp_path: Path) -> None:
    trainer = Trainer(accelerator="cpu", logger=False, callbacks=[AtomicCheckpoint(tmp_path)])
    with pytest.raises(ValueError, match=r"AtomicCheckpointIO"):
        AtomicCheckpoint(tmp_path).setup(trainer, LightningModule(), "fit")


def test_a_mode_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        (ValueError, TypeError), match="lowest"
    ):  # under pytest jaxtyping is quicker
        AtomicCheckpoint(tmp_path, "val/error", "lowest")  # type: ignore[arg-type]

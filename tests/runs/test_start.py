"""Where a training starts, and what it never overwrites."""

import json
import threading
from pathlib import Path

import pytest
import torch

from stn_lightning.runs.folder import RunFolder
from stn_lightning.runs.start import choose_start
from stn_lightning.runtime.checkpoint_io import AtomicCheckpointIO
from stn_lightning.runtime.locks import claim
from tests.stn_command import Stn

QUICK = (
    "--config",
    "configs/quickstart.yaml",
    "--trainer.max_epochs=1",
    "--trainer.limit_train_batches=2",
    "--trainer.limit_val_batches=1",
    "--trainer.limit_test_batches=1",
    "--trainer.logger=false",
)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunFolder:
    monkeypatch.chdir(tmp_path)
    folder = RunFolder("mine")
    folder.checkpoints.mkdir(parents=True)
    return folder


def save(folder: RunFolder, name: str, batches: int = 7) -> Path:
    progress = {"fit_loop": {"epoch_loop.batch_progress": {"total": {"ready": batches}}}}
    AtomicCheckpointIO().save_checkpoint({"loops": progress}, folder.checkpoints / name)
    return folder.checkpoints / name


def test_a_run_goes_on_from_its_last_checkpoint(folder: RunFolder) -> None:
    save(folder, "best.ckpt", 3)
    last = save(folder, "last.ckpt")
    for resume in ("auto", "must"):
        assert choose_start(folder, resume, None) == (last, (), 7)
    assert choose_start(folder, "never", None) == (None, (), 0)


@pytest.mark.parametrize("resume", ["auto", "must"])
def test_a_run_whose_checkpoints_are_all_damaged_never_starts_over(
    folder: RunFolder, resume: str
) -> None:
    for name in ("best.ckpt", "last.ckpt"):
        save(folder, name).write_bytes(b"half")
    message = (
        r"no checkpoint in runs/mine/checkpoints can be read "
        r"\(.*last.ckpt.*best.ckpt.*--resume never"
    )
    with pytest.raises(ValueError, match=message):
        choose_start(folder, resume, None)


def test_a_damaged_last_checkpoint_is_left_out_and_named(folder: RunFolder) -> None:
    best = save(folder, "best.ckpt", 3)
    save(folder, "last.ckpt").write_bytes(b"half")
    start = choose_start(folder, "auto", None)
    assert (start.path, start.batches) == (best, 3)
    (line,) = start.skipped
    assert "last.ckpt: not a whole checkpoint" in line


def test_a_checkpoint_that_is_a_link_to_nothing_is_left_out_and_named(folder: RunFolder) -> None:
    best = save(folder, "best.ckpt", 3)
    (folder.checkpoints / "last.ckpt").symlink_to("/no/such/file")
    start = choose_start(folder, "auto", None)
    assert (start.path, start.batches) == (best, 3)
    (line,) = start.skipped
    assert "runs/mine/checkpoints/last.ckpt" in line


@pytest.mark.parametrize("resume", ["auto", "must", "never"])
def test_a_given_checkpoint_that_is_not_there_is_named(folder: RunFolder, resume: str) -> None:
    save(folder, "last.ckpt")
    with pytest.raises(ValueError, match="--ckpt_path /no/such: there is no such checkpoint"):
        choose_start(folder, resume, "/no/such")


def test_a_given_checkpoint_is_taken_where_the_run_has_none_of_its_own(folder: RunFolder) -> None:
    other = RunFolder("other")
    given = save(other, "last.ckpt")
    assert choose_start(folder, "auto", str(given)).path == given
    own = save(folder, "last.ckpt")
    assert choose_start(folder, "auto", str(own.resolve())).path == own.resolve()
    with pytest.raises(ValueError, match="runs/mine has checkpoints of its own"):
        choose_start(folder, "auto", str(given))
    assert choose_start(folder, "never", str(given)).path == given
    with pytest.raises(ValueError, match="--resume never moves runs/mine away"):
        choose_start(folder, "never", str(own))


@pytest.mark.parametrize(
    "name", ["..", ".", "", "a/b", "/a", "-a", ".a", "a b", "a\nb", "a;b", "$(a)", "a\0", "a\x1b"]
)
def test_a_name_is_one_plain_word(name: str) -> None:
    with pytest.raises(ValueError, match="give up to 200 letters"):
        RunFolder(name)


@pytest.mark.parametrize("name", ["a", "st_cnn-rts.2", "lr=1e-3", "größe", "7"])
def test_a_plain_word_is_a_name(name: str) -> None:
    assert RunFolder(name).path == Path("runs") / name


def test_a_second_training_of_a_name_is_refused_and_harms_nothing(stn: Stn, tmp_path: Path) -> None:
    held, done = threading.Event(), threading.Event()

    def hold() -> None:
        with claim(tmp_path / "runs/quickstart"):
            held.set()
            done.wait(60)

    first = threading.Thread(target=hold)
    first.start()
    held.wait(60)
    for resume in ("auto", "never"):
        code, out, err = stn("fit", *QUICK, "--resume", resume)
        assert (code, out) == (2, "")
        assert err.startswith("stn fit: runs/quickstart is in use by process ")
        assert err.count("\n") == 1
    done.set()
    first.join()
    assert not (tmp_path / "runs/quickstart").exists()


def test_starting_over_moves_nothing_before_everything_else_is_right(
    stn: Stn, tmp_path: Path
) -> None:
    assert stn("fit", *QUICK)[0] == 0
    runs, last = tmp_path / "runs", tmp_path / "runs/quickstart/checkpoints/last.ckpt"
    before = last.read_bytes()
    for mistake in (
        ("--monitor", "accuracy"),
        ("--model.init_args.backbone.init_args.num_classes", "7"),
    ):
        code, _, err = stn("fit", *QUICK, "--resume", "never", *mistake)
        assert code == 2, err
        assert [path.name for path in runs.iterdir()] == ["quickstart"]
        assert last.read_bytes() == before


def test_which_checkpoint_is_tested_is_said_and_recorded(stn: Stn, tmp_path: Path) -> None:
    assert stn("fit", *QUICK)[0] == 0
    run = tmp_path / "runs/quickstart"
    record = json.loads((run / "results.json").read_text())
    assert record["checkpoint"] == "best.ckpt"
    assert record["best_validation"] is not None
    (run / "checkpoints/best.ckpt").unlink()
    code, _, err = stn("test", "--name", "quickstart")
    assert code == 0
    assert "best.ckpt is missing; using runs/quickstart/checkpoints/last.ckpt" in err
    record = json.loads((run / "results.json").read_text())
    assert (record["checkpoint"], record.get("best_validation")) == ("last.ckpt", None)
    checkpoint = torch.load(run / "checkpoints/last.ckpt", weights_only=True)
    next(iter(checkpoint["state_dict"].values())).fill_(torch.nan)
    torch.save(checkpoint, run / "checkpoints/last.ckpt")
    (run / "results.json").unlink()
    code, out, err = stn("test", "--name", "quickstart")
    assert code == 1
    assert "%" not in out
    assert err.strip().endswith("is not finite; use another checkpoint")
    assert not (run / "results.json").exists()


def test_files_that_only_inform_stop_no_training(stn: Stn, tmp_path: Path) -> None:
    run = tmp_path / "runs/quickstart"
    run.mkdir(parents=True)
    (run / "results.json").write_text("{")
    (run / "restarts.json").write_text("[")
    (run / "state.json").mkdir()
    (run / "panel.png").mkdir()
    code, _, err = stn("fit", *QUICK)
    assert code == 0, err
    assert err.count("state.json") == err.count("panel.png") == 1
    assert json.loads((run / "results.json").read_text())["epochs"] == 1

"""How a run starts: anew, from other weights, where it was stopped, after its end."""

import locale
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from lightning import LightningModule, Trainer
from safetensors.torch import save_file

import stn_lightning
from stn_lightning.__main__ import main
from stn_lightning.callbacks import StatusFile
from stn_lightning.runs.initial_weights import take_weights
from stn_lightning.runs.record import RunRecord
from tests.stn_command import Stn

QUICK = (
    "--config",
    "configs/quickstart.yaml",
    "--trainer.limit_train_batches=2",
    "--trainer.limit_val_batches=1",
    "--trainer.log_every_n_steps=1",
    "--model.init_args.backbone.init_args.num_filters=8",
)
SIX_CLASSES = "--model.init_args.backbone.init_args.num_filters=6"


def weights(run: str, name: str = "last") -> dict[str, torch.Tensor]:
    file = f"runs/{run}/checkpoints/{name}.ckpt"
    return torch.load(file, weights_only=True)["state_dict"]


def test_weights_of_another_run_are_taken_as_far_as_they_fit(stn: Stn) -> None:
    assert stn("fit", *QUICK, "--trainer.max_epochs=1", "--name=one")[0] == 0
    still = ("--model.init_args.optimizer.init_args.lr=0", "--trainer.max_epochs=1")
    code, out, err = stn("fit", *QUICK, *still, "--name=two", "--init_weights=one")
    assert (code, err) == (0, "")
    assert "weights of one: " in out
    assert "tensors copied; all fit" in out
    best = weights("one", "best")
    assert all(torch.equal(value, best[name]) for name, value in weights("two").items())
    assert RunRecord.read(Path("runs/two/results.json")).initialised_from == "one"
    save_file({n: value.contiguous() for n, value in best.items()}, "best.safetensors")
    code, out, err = stn(
        "fit", *QUICK, *still, SIX_CLASSES, "--name=six", "--init_weights=best.safetensors"
    )
    assert (code, err) == (0, "")
    (line,) = [line for line in out.splitlines() if line.startswith("weights of best.safetensors")]
    assert "not copied: of another shape: backbone" in line
    moved = weights("six")
    shared = [name for name, value in moved.items() if value.shape == best[name].shape]
    assert shared
    assert all(torch.equal(moved[name], best[name]) for name in shared)


def test_nothing_that_fits_and_nothing_that_can_be_read_are_one_line(stn: Stn) -> None:
    save_file({"other": torch.zeros(2)}, "other.safetensors")
    Path("broken.safetensors").write_bytes(b"no weights")
    for source, complaint in {
        "other.safetensors": "none of 1 tensors fits the network by name and shape",
        "broken.safetensors": "broken.safetensors: is no safetensors file",
        "nobody": "runs/nobody/config.yaml does not exist",
    }.items():
        code, _, err = stn("fit", *QUICK, f"--init_weights={source}", "--trainer.max_epochs=1")
        assert (code, err.count("\n")) == (2, 1)
        assert complaint in err


def test_weights_are_never_of_another_checkpoint_than_one_thinks(stn: Stn) -> None:
    assert stn("fit", *QUICK, "--trainer.max_epochs=1", "--name=one")[0] == 0
    checkpoints = Path("runs/one/checkpoints")
    spoilt = torch.load(checkpoints / "best.ckpt", weights_only=True)
    name = next(iter(spoilt["state_dict"]))
    spoilt["state_dict"][name].fill_(torch.nan)
    torch.save(spoilt, "spoilt.ckpt")
    code, _, err = stn("fit", *QUICK, "--name=two", "--init_weights=spoilt.ckpt")
    assert (code, err) == (
        2,
        f"stn fit: spoilt.ckpt: the weight {name} holds NaN or infinite values; give another "
        "checkpoint\n",
    )
    (checkpoints / "best.ckpt").unlink()
    code, _, err = stn("fit", *QUICK, "--name=two", "--init_weights=one")
    assert (code, err.count("\n")) == (2, 1)
    assert "best.ckpt is missing; to start with another checkpoint give --init_weights" in err
    last = f"--init_weights={checkpoints / 'last.ckpt'}"
    code, out, _ = stn("fit", *QUICK, "--trainer.max_epochs=1", "--name=two", last)
    assert code == 0
    assert "weights of runs/one/checkpoints/last.ckpt: " in out
    record = RunRecord.read(Path("runs/two/results.json"))
    assert record.initialised_from == "runs/one/checkpoints/last.ckpt"


def test_left_and_taken_tensors_are_told_apart() -> None:
    network = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.Linear(3, 4))
    given = {
        "0.weight": torch.ones(3, 2),
        "1.weight": torch.ones(5, 3),
        "1.bias": torch.ones(4),
        "2.bias": torch.ones(4),
    }
    found = take_weights(network, given)
    assert found.taken == ["0.weight", "1.bias"]
    assert (found.other_shape, found.missing, found.unused) == (
        ["1.weight"],
        ["0.bias"],
        ["2.bias"],
    )


def test_a_checkpoint_that_does_not_fit_is_one_line(stn: Stn) -> None:
    assert stn("fit", *QUICK, "--trainer.max_epochs=1", "--name=one")[0] == 0
    checkpoint = "--ckpt_path=runs/one/checkpoints/last.ckpt"
    code, _, err = stn("fit", *QUICK, SIX_CLASSES, checkpoint, "--name=two")
    assert code == 2
    assert "the checkpoint does not fit the network, in " in err
    assert "has the shape [8, 1, 9, 9], here [6, 1, 9, 9]" in err
    assert "--init_weights FILE copies the tensors that fit" in err
    assert err.count("\n") == 1


def test_more_epochs_after_the_end_go_on_and_the_record_keeps_both_lengths(stn: Stn) -> None:
    assert stn("fit", *QUICK, "--trainer.max_epochs=1")[0] == 0
    code, out, err = stn("fit", *QUICK, "--trainer.max_epochs=3")
    assert (code, err) == (0, "")
    assert out.startswith("trainer.max_epochs was 1 and is 3: the learning rate continues")
    assert "resuming runs/quickstart" in out
    assert [line[:11] for line in out.splitlines() if line.startswith("epoch")] == [
        "epoch   2/3",
        "epoch   3/3",
    ]
    record = RunRecord.read(Path("runs/quickstart/results.json"))
    assert (record.lengths, record.epochs) == (["1 epochs", "3 epochs"], 3)
    assert (
        yaml.safe_load(Path("runs/quickstart/config.yaml").read_text())["trainer"]["max_epochs"]
        == 3
    )
    code, _, err = stn("fit", *QUICK, "--trainer.max_epochs=2")
    assert code == 2
    assert "was started with trainer.max_epochs = 3, now it is 2" in err


def test_a_test_while_a_finished_run_is_trained_on_is_no_result_of_the_longer_one(
    stn: Stn, monkeypatch: pytest.MonkeyPatch
) -> None:
    def crash(self: StatusFile, trainer: Trainer, pl_module: LightningModule) -> None:
        raise RuntimeError("the machine was struck by lightning")

    record = Path("runs/quickstart/results.json")
    assert stn("fit", *QUICK, "--trainer.max_epochs=1")[0] == 0
    assert stn("test", "--name=quickstart")[0] == 0
    assert RunRecord.read(record).epochs == 1
    with monkeypatch.context() as patch:
        patch.setattr(StatusFile, "on_train_epoch_end", crash)
        assert stn("fit", *QUICK, "--trainer.max_epochs=3")[0] == 1
    assert stn("test", "--name=quickstart")[0] == 0
    assert RunRecord.read(record).epochs is None


def test_a_finished_run_says_so_and_does_nothing(stn: Stn) -> None:
    tested = stn("fit", *QUICK, "--trainer.max_epochs=1")[1].splitlines()[-3]
    before = Path("runs/quickstart/results.json").stat().st_mtime_ns
    code, out, err = stn("fit", *QUICK, "--trainer.max_epochs=1")
    assert (code, err) == (0, "")
    assert out.startswith("runs/quickstart is finished, after 1 epochs; --trainer.max_epochs N ")
    assert out.splitlines()[1] == tested
    assert Path("runs/quickstart/results.json").stat().st_mtime_ns == before
    Path("runs/quickstart/results.json").unlink()
    assert tested in stn("fit", *QUICK, "--trainer.max_epochs=1")[1], (
        "it is tested where it was not"
    )


def test_an_option_that_is_new_with_its_default_is_no_change(stn: Stn) -> None:
    assert stn("fit", *QUICK, "--trainer.max_epochs=1")[0] == 0
    file = Path("runs/quickstart/config.yaml")
    config = yaml.safe_load(file.read_text())
    assert config["model"]["init_args"].pop("overlap_penalty") == 0
    file.write_text(yaml.safe_dump(config))
    assert stn("fit", *QUICK, "--trainer.max_epochs=2")[0] == 0
    file.write_text(yaml.safe_dump(config))
    penalty = "--model.init_args.overlap_penalty=0.1"
    code, _, err = stn("fit", *QUICK, "--trainer.max_epochs=2", penalty)
    assert code == 2
    assert "overlap_penalty = 0.0, now it is 0.1" in err
    config["model"]["init_args"]["an_old_option"] = 1
    file.write_text(yaml.safe_dump(config))
    code, _, err = stn("fit", *QUICK, "--trainer.max_epochs=2")
    assert code == 2
    assert "is of another version, which this version cannot read" in err
    assert err.count("\n") == 1


def test_a_mistake_leaves_no_new_folder_and_takes_no_file_of_the_user(stn: Stn) -> None:
    classes = "--model.init_args.backbone.init_args.num_classes"
    wrong = ("fit", *QUICK, classes, "7", "--trainer.max_epochs=1")
    assert stn(*wrong)[0] == 2
    assert list(Path("runs").iterdir()) == []
    notes = Path("runs/quickstart/notes.txt")
    notes.parent.mkdir()
    notes.touch()
    assert stn(*wrong)[0] == 2
    assert notes.exists()
    assert stn(*wrong, "--resume=never")[0] == 2
    assert notes.exists()
    right = ("fit", *QUICK, classes, "10", "--trainer.max_epochs=1")
    assert stn(*right)[0] == 0
    before = sorted(Path("runs").rglob("*"))
    assert stn(*wrong)[0] == 2
    assert sorted(Path("runs").rglob("*")) == before


@pytest.mark.parametrize("error", [KeyError("a key"), AssertionError(), ZeroDivisionError("by 0")])
def test_any_error_in_the_first_step_is_one_line_and_the_rest_on_request(
    error: Exception, stn: Stn, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr("stn_lightning.tasks.ClassificationTask.training_step", fail)
    code, _, err = stn("fit", *QUICK, "--trainer.max_epochs=1")
    assert (code, err.count("\n")) == (2, 1)
    assert f"STN_TRACEBACK=1 shows where ({type(error).__name__})" in err
    monkeypatch.setenv("STN_TRACEBACK", "1")
    assert "Traceback" in stn("fit", *QUICK, "--trainer.max_epochs=1")[2]


def test_a_working_directory_that_was_removed_is_one_line(tmp_path: Path) -> None:
    command = f"mkdir {tmp_path}/gone; cd {tmp_path}/gone; rmdir ../gone; exec {sys.executable} "
    package = Path(stn_lightning.__file__).parents[1]
    answer = subprocess.run(
        ["sh", "-c", command + "-m stn_lightning --version"],
        env={**os.environ, "PYTHONPATH": str(package)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert answer.returncode == 2
    assert answer.stderr == "stn: the working directory no longer exists; change to another\n"


def test_another_runs_checkpoint_is_tested_without_changing_the_record(stn: Stn) -> None:
    for name in ("one", "two"):
        assert stn("fit", *QUICK, "--trainer.max_epochs=1", f"--name={name}")[0] == 0
    file = Path("runs/one/results.json")
    before = file.read_bytes()
    code, out, _ = stn("test", "--name=one", "--ckpt_path=runs/two/checkpoints/best.ckpt")
    assert code == 0
    assert "results.json is not changed: runs/two/checkpoints/best.ckpt is none of this" in out
    assert file.read_bytes() == before
    assert stn("test", "--name=one")[0] == 0
    assert RunRecord.read(file).configs == ["configs/quickstart.yaml"]


def test_a_job_that_is_started_again_resumes_whatever_its_command_says(
    stn: Stn, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = ("fit", *QUICK, "--trainer.max_epochs=1", "--name=one")
    assert stn(*one)[0] == 0
    assert stn(*one, "--resume=never")[0] == 0
    assert Path("runs/one.1").exists()
    longer = ("fit", *QUICK, "--trainer.max_epochs=2", "--name=one", "--resume=never")
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    monkeypatch.setenv("SLURM_JOB_ID", "7")  # its first start ended before it set the run aside
    assert stn(*one, "--resume=never")[0] == 0
    assert Path("runs/one.2").exists()
    code, out, _ = stn(*longer)
    assert code == 0
    assert "resuming runs/one" in out
    assert not Path("runs/one.3").exists()


def test_a_run_that_began_with_a_checkpoint_resumes_by_the_same_command(stn: Stn) -> None:
    assert stn("fit", *QUICK, "--trainer.max_epochs=1", "--name=one")[0] == 0
    Path("runs/one/checkpoints/last.ckpt").rename("start.ckpt")
    two = ("fit", *QUICK, "--name=two", "--ckpt_path=start.ckpt")
    assert stn(*two, "--trainer.max_epochs=2")[0] == 0
    Path("start.ckpt").unlink()  # it is not needed any more
    code, out, err = stn(*two, "--trainer.max_epochs=3")
    assert (code, err) == (0, "")
    assert "epoch   3/3" in out
    assert "epoch   2/3" not in out


def test_files_are_utf_8_whatever_the_terminals_language(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[object] = []

    def stop(*command: object) -> None:
        started.extend(command)
        raise SystemExit

    monkeypatch.setattr(locale, "getpreferredencoding", lambda _: "ISO-8859-1")
    monkeypatch.setattr(os, "execv", stop)
    monkeypatch.setattr(sys, "argv", ["stn", "--version"])
    monkeypatch.setenv("PYTHONUTF8", "0")  # the user's own choice
    assert main() == 0
    monkeypatch.delenv("PYTHONUTF8")
    with pytest.raises(SystemExit):
        main()
    assert started == [sys.executable, sys.orig_argv]
    assert os.environ.pop("PYTHONUTF8") == "1"


def test_a_finished_run_is_tested_again_if_its_record_is_of_another_checkpoint(stn: Stn) -> None:
    one = ("fit", *QUICK, "--trainer.max_epochs=2", "--name=one")
    assert stn(*one)[0] == 0
    file = Path("runs/one/results.json")
    before = RunRecord.read(file)
    last = "--ckpt_path=runs/one/checkpoints/last.ckpt"
    assert stn("test", "--name=one", last)[0] == 0
    assert RunRecord.read(file).checkpoint == "last.ckpt"
    code, out, _ = stn(*one)
    assert code == 0
    assert "is finished" not in out
    again = RunRecord.read(file)
    assert (again.checkpoint, again.metrics) == ("best.ckpt", before.metrics)
    assert "is finished, after 2 epochs" in stn(*one)[1]

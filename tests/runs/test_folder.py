"""What a user sees of a run: training, resuming, testing, and every mistake as one line."""

import errno
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import LightningModule, Trainer
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from stn_lightning.__main__ import main
from stn_lightning.callbacks import WarpImages
from stn_lightning.datasets import EmbeddedDigits
from stn_lightning.runs.folder import RunFolder, data_difference, differences
from tests.mnist_miniature import write_mnist
from tests.stn_command import CONFIGS, Stn

QUICK = (
    "--config",
    "configs/quickstart.yaml",
    "--trainer.max_epochs=2",
    "--trainer.limit_train_batches=4",
    "--trainer.log_every_n_steps=1",
)


def test_fit_trains_tests_the_best_checkpoint_and_says_where_everything_is(
    stn: Stn, tmp_path: Path
) -> None:
    code, out, err = stn("fit", *QUICK)
    folder = tmp_path / "runs/quickstart"
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[0] == "training runs/quickstart"
    assert lines[1].startswith("67,236 parameters (backbone 54,122, transformer 13,114) on cpu")
    assert lines[2].startswith("epoch   1/2  loss ")
    assert lines[-3].endswith("% of 500 images")
    assert lines[-2:] == ["run folder runs/quickstart", "crops runs/quickstart/panel.png"]
    assert {path.name for path in folder.iterdir()} >= {
        "config.yaml",
        "checkpoints",
        "panel.png",
        "results.json",
    }
    assert {path.name for path in (folder / "checkpoints").iterdir()} == {"best.ckpt", "last.ckpt"}
    with Image.open(folder / "panel.png") as panel:
        assert panel.size[0] > 400


def test_results_say_what_the_number_is_and_where_it_is_from(stn: Stn, tmp_path: Path) -> None:
    stn("fit", *QUICK, "--seed_everything", "3")
    results = json.loads((tmp_path / "runs/quickstart/results.json").read_text())
    assert results["name"] == "quickstart"
    assert results["configs"] == ["configs/quickstart.yaml"]
    assert results["seed"] == 3
    assert results["epochs"] == 2
    assert results["samples_tested"] == 500
    assert results["samples_seen"] == 2 * sum(
        len(part) for part in torch.arange(1097).tensor_split(35)[:4]
    )
    assert results["parameters"] == 67236
    assert results["precision"] == "32-true"
    assert results["versions"]["torch"] == torch.__version__.split("+")[0]
    assert results["train_seconds"] > 0
    assert results["images_per_second"] > 0
    assert 0 <= results["metrics"]["test/error"] <= 100
    wrong = results["metrics"]["test/error"] * len(EmbeddedDigits().load("test").label) / 100
    assert wrong == pytest.approx(round(wrong), abs=1e-3)  # a whole number of images


def test_tensorboard_gets_scalars_images_histograms_and_hyper_parameters(
    stn: Stn, tmp_path: Path
) -> None:
    stn("fit", *QUICK)
    events = EventAccumulator(str(tmp_path / "runs/quickstart"), size_guidance={"images": 0})
    events.Reload()
    scalars = set(events.Tags()["scalars"])
    assert {
        "train/loss",
        "train/error",
        "val/error",
        "speed/images_per_second",
        "speed/epoch_seconds",
    } <= scalars
    assert {
        "lr-AdamW/backbone",
        "lr-AdamW/localisation",
        "test/error",
        "final/test/error",
    } <= scalars
    assert len(events.Images("where it looks")) == 2
    assert {
        "transformer/out_of_bounds",
        "transformer/largest_scale",
        "transformer/gradient",
    } <= scalars
    assert "transformer/theta.00" in events.Tags()["histograms"]
    assert any(
        metadata.plugin_data.plugin_name == "hparams"
        for metadata in events.summary_metadata.values()
    )


@pytest.mark.parametrize(("padding", "code"), [("[-0.42]", 0), ("border", 0), ("dark", 2)])
def test_the_background_of_a_normalised_image_is_one_argument(
    padding: str, code: int, stn: Stn
) -> None:
    sampler = "--model.init_args.transformer.init_args.sampler"
    options = (
        f"{sampler}=stn_lightning.transformers.Bilinear",
        f"{sampler}.init_args.padding={padding}",
        "--trainer.fast_dev_run=true",
    )
    found, _, err = stn("fit", "--config", "configs/quickstart.yaml", *options)
    assert found == code
    assert ("padding" in err) is (code == 2)


def test_a_second_run_with_the_same_seed_gives_the_same_weights(stn: Stn, tmp_path: Path) -> None:
    for name in ("one", "two"):
        assert stn("fit", *QUICK, "--name", name)[0] == 0
    one, two = (
        torch.load(tmp_path / f"runs/{name}/checkpoints/last.ckpt", weights_only=True)["state_dict"]
        for name in ("one", "two")
    )
    assert all(torch.equal(one[key], two[key]) for key in one)


def test_test_and_validate_find_the_run_by_its_name_alone(stn: Stn) -> None:
    trained = stn("fit", *QUICK)[1].splitlines()[-3]
    code, out, _ = stn("test", "--name", "quickstart")
    assert code == 0
    assert out.splitlines()[0] == trained
    code, out, _ = stn("validate", "--name", "quickstart")
    assert code == 0
    assert out.startswith("validation error ")


def test_a_run_that_crashed_goes_on_and_ends_in_the_weights_of_one_that_did_not(
    stn: Stn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def crash(self: WarpImages, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.current_epoch == 1:
            raise RuntimeError("the machine was struck by lightning")

    stn("fit", *QUICK, "--name", "whole")
    with monkeypatch.context() as patch:
        patch.setattr(WarpImages, "on_train_epoch_start", crash)
        code, _, err = stn("fit", *QUICK, "--name", "parts")
        assert (code, "struck" in err) == (1, True)
    code, out, _ = stn("fit", *QUICK, "--name", "parts", "--resume", "must")
    assert code == 0
    assert out.startswith("resuming runs/parts")
    whole, parts = (
        torch.load(tmp_path / f"runs/{name}/checkpoints/last.ckpt", weights_only=True)
        for name in ("whole", "parts")
    )
    assert parts["global_step"] == whole["global_step"]
    assert all(
        torch.equal(whole["state_dict"][key], parts["state_dict"][key])
        for key in whole["state_dict"]
    )


@pytest.mark.slow
def test_two_processes_train_together_and_test_each_image_once(tmp_path: Path) -> None:
    options = ["--trainer.max_epochs=2", "--trainer.devices=2", "--name=two"]
    command = [
        sys.executable,
        "-m",
        "stn_lightning",
        "fit",
        "--config",
        str(CONFIGS / "quickstart.yaml"),
        *options,
    ]
    done = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=600
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.count("test error") == 1
    assert json.loads((tmp_path / "runs/two/results.json").read_text())["samples_tested"] == 500


def test_resuming_with_another_configuration_is_refused_and_names_both_values(stn: Stn) -> None:
    stn("fit", *QUICK)
    code, _, err = stn("fit", *QUICK, "--model.init_args.optimizer.init_args.lr", "0.5")
    assert code == 2
    assert "model.init_args.optimizer.init_args.lr = 0.002, now it is 0.5" in err
    assert err.count("\n") == 1


def test_resume_never_starts_over_and_keeps_the_old_run(stn: Stn, tmp_path: Path) -> None:
    stn("fit", *QUICK)
    before = (tmp_path / "runs/quickstart/checkpoints/last.ckpt").read_bytes()
    assert stn("fit", *QUICK, "--resume", "never", "--seed_everything", "1")[0] == 0
    assert (tmp_path / "runs/quickstart.1/checkpoints/last.ckpt").read_bytes() == before
    assert "seed_everything: 1" in (tmp_path / "runs/quickstart/config.yaml").read_text()


MISTAKES = {
    "a misspelt option": (("--trainer.max_epoch", "3"), "did you mean --trainer.max_epochs?"),
    "a misspelt option of ours": (("--nam", "x"), "did you mean --name?"),
    "an option of another name": (("--trainr", "3"), "unrecognized arguments: --trainr"),
    "a wrong type": (
        ("--trainer.max_epochs", "three"),
        "trainer.max_epochs: Expected int, got three",
    ),
    "a misspelt argument": (
        ("--model.init_args.backbone.init_args.num_filterz", "3"),
        "did you mean num_filters?",
    ),
    "a misspelt class": (
        ("--model.init_args.backbone", "stn_lightning.backbones.CNM"),
        "no attribute 'CNM' - did you mean CNN?",
    ),
    "a misspelt short name of a class": (
        ("--model.init_args.transformer", "SpatialTransfomer"),
        "model.transformer: there is no class SpatialTransfomer - did you mean SpatialTransformer?",
    ),
    "a missing file": (("--config", "nope.yaml"), "nope.yaml: there is no such file\n"),
    "another suffix": (
        ("--config", "configs/quickstart.yml"),
        "configs/quickstart.yml: there is no such file - did you mean configs/quickstart.yaml?\n",
    ),
    "a file without its option": (
        ("configs/sgd.yaml",),
        "unrecognized arguments: configs/sgd.yaml; a file is given by --config: "
        "--config configs/sgd.yaml\n",
    ),
    "a value out of range": (
        ("--model.init_args.schedule.init_args.warmup", "2"),
        "0 <= warmup < 1",
    ),
    "a nested value out of range": (
        ("--data.init_args.batch_size", "0"),
        "batch_size 0; give 1 or more",
    ),
    "nothing to resume": (("--resume", "must"), "holds no checkpoint; leave --resume out"),
    "a name with a slash": (("--name", "a/b"), "give up to 200 letters"),
    "a name too long for a file": (("--name", 201 * "x"), "up to 200"),
    "the wrong number of classes": (
        ("--model.init_args.backbone.init_args.num_classes", "7"),
        "has 7 classes, the data has 10",
    ),
    "a metric that there is not": (
        ("--monitor", "accuracy"),
        "monitor 'accuracy' is not logged in validation; logged metrics: val/",
    ),
    "no such precision": (("--trainer.precision", "bf17"), "got bf17"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_answered_by_one_line_and_exit_code_2(mistake: str, stn: Stn) -> None:
    options, expected = MISTAKES[mistake]
    code, _, err = stn("fit", "--config", "configs/quickstart.yaml", *options)
    assert code == 2
    assert expected in err
    assert err.startswith("stn fit: ")
    assert err.count("\n") == 1
    assert len(err) < 400


INSIDE = {
    "a list of the wrong length": (
        ".init_args.sharpness=[1,2,3]",
        "sharpness is a list of length 3 for 2 maps; give one number for all, or a list of 2",
    ),
    "a number out of range": (
        ".init_args.sharpness=-1",
        "sharpness -1.0; give finite numbers of 0 or more",
    ),
    "a word for a number": (
        ".init_args.sharpness=high",
        "model.transformer.localisation.sharpness: Expected float, Expected Sequence, got high",
    ),
    "in a list of classes": (
        "=[{class_path: stn_lightning.transformers.HeatmapLocalisation, init_args: "
        "{feature_extractor: stn_lightning.backbones.SmallConvNet, sharpness: -1}}]",
        "sharpness -1.0; give finite numbers of 0 or more",
    ),
    "in a class of a parameter of the same name": (
        "={class_path: stn_lightning.transformers.MomentLocalisation, init_args: {localisation: "
        "{class_path: stn_lightning.transformers.ConvolutionalLocalisation, init_args: "
        "{num_filters: many}}}}",
        "model.transformer.localisation.localisation.num_filters: Expected int. Got value: many",
    ),
}


@pytest.mark.parametrize("mistake", INSIDE)
def test_a_mistake_inside_one_of_several_allowed_types_is_the_only_one_named(
    mistake: str, stn: Stn
) -> None:
    """A localisation is a module or a list of modules."""
    value, expected = INSIDE[mistake]
    files = [f"--config=configs/digit_pairs/{name}.yaml" for name in ("st2", "data")]
    localisation = "--model.init_args.transformer.init_args.localisation"
    code, _, err = stn("fit", *files, f"{localisation}{value}", "--trainer.precision=32-true")
    assert (code, err) == (2, f"stn fit: {expected}\n")


YAML = {
    "a key given twice": (
        "trainer:\n  max_epochs: 1\n  max_epochs: 2\n",
        "bad.yaml:3: key 'max_epochs' is given twice",
    ),
    "a misspelt key": ("trainer:\n  max_epoch: 1\n", "did you mean trainer.max_epochs?"),
    "a misspelt section": ("trainerr:\n  max_epochs: 1\n", "did you mean trainer.max_epochs?"),
    "no YAML": ("trainer: [\n", "bad.yaml:2: "),
}


@pytest.mark.parametrize("mistake", YAML)
def test_a_mistake_in_a_file_is_answered_by_one_line(
    mistake: str, stn: Stn, tmp_path: Path
) -> None:
    text, expected = YAML[mistake]
    (tmp_path / "bad.yaml").write_text(text)
    code, _, err = stn("fit", "--config", "configs/quickstart.yaml", "--config", "bad.yaml")
    assert code == 2
    assert expected in err
    assert err.count("\n") == 1


def test_a_file_that_is_no_text_is_named(stn: Stn, tmp_path: Path) -> None:
    (tmp_path / "bad.yaml").write_bytes(b"\xff\xfe\x00")
    code, _, err = stn("fit", "--config", "bad.yaml")
    assert (code, err) == (2, "stn fit: bad.yaml: byte 0: this is not UTF-8 text\n")


@pytest.mark.parametrize("command", ["test", "validate"])
def test_evaluating_needs_a_checkpoint(command: str, stn: Stn) -> None:
    code, _, err = stn(command, "--config", "configs/quickstart.yaml")
    assert code == 2
    assert "runs/quickstart/checkpoints holds no checkpoint; train first" in err


def test_an_unknown_run_is_named(stn: Stn) -> None:
    code, _, err = stn("test", "--name", "nope")
    assert code == 2
    assert "runs/nope/config.yaml does not exist" in err


def test_a_run_without_name_and_files_is_asked_for_them(stn: Stn) -> None:
    code, _, err = stn("fit")
    assert code == 2
    assert "no data, model given; take them from a file" in err


def test_an_unwritable_run_folder_is_refused_before_training(stn: Stn, tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("a file where the folder should be")
    code, out, err = stn("fit", *QUICK)
    assert code == 2
    assert "runs" in err
    assert err.count("\n") == 1
    assert "epoch" not in out


def test_a_data_folder_that_is_not_there_is_named(
    stn: Stn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STN_DATA", "/nowhere")
    files = (
        "--config",
        "configs/mnist/networks/cnn.yaml",
        "--config",
        "configs/mnist/data/rts.yaml",
    )
    code, _, err = stn("fit", *files)
    assert code == 2
    assert "STN_DATA is /nowhere, which is no folder" in err


def test_a_truncated_or_exchanged_file_is_named_and_left_alone(
    stn: Stn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_mnist(tmp_path / "data/mnist", monkeypatch)
    path = tmp_path / "data/mnist/train-images-idx3-ubyte.gz"
    truncated = path.read_bytes()[:-1000]
    path.write_bytes(truncated)
    files = (
        "--config",
        "configs/mnist/networks/cnn.yaml",
        "--config",
        "configs/mnist/data/rts.yaml",
    )
    code, _, err = stn("fit", *files, "--trainer.accelerator", "cpu")
    assert code == 2
    assert "data/mnist/train-images-idx3-ubyte.gz: its SHA-256 is" in err
    assert err.count("\n") == 1
    assert path.read_bytes() == truncated


def test_an_error_after_the_first_step_keeps_its_traceback(
    stn: Stn, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(self: object, *arguments: object) -> None:
        raise ValueError("a bug")

    monkeypatch.setattr("stn_lightning.callbacks.WarpImages.on_validation_epoch_end", broken)
    code, _, err = stn("fit", *QUICK)
    assert code == 1
    assert "Traceback" in err


def test_help_version_and_unknown_commands_answer_at_once() -> None:
    stn = [sys.executable, "-X", "importtime", "-m", "stn_lightning"]
    for argument, code in (("--help", 0), ("--version", 0), ("fti", 2)):
        done = subprocess.run([*stn, argument], capture_output=True, text=True, check=False)
        assert done.returncode == code
        assert "torch" not in {
            line.split("|")[-1].strip() for line in done.stderr.splitlines() if "|" in line
        }


def test_an_unknown_command_gets_a_suggestion(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["stn", "fti"])
    assert main() == 2
    assert "did you mean fit?" in capsys.readouterr().err


def test_a_reader_that_has_seen_enough_gets_no_traceback() -> None:
    command = [
        sys.executable,
        "-m",
        "stn_lightning",
        "table",
        "configs/tables/mnist.yaml",
        "--dry-run",
    ]
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        command, cwd=CONFIGS.parent, stdout=write, stderr=subprocess.PIPE, text=True, check=False
    )
    os.close(write)
    assert (done.returncode, done.stderr) == (
        1,
        "stn: stopped, as its output is no longer read\n",
    )


def test_a_configuration_that_others_may_be_reading_is_never_half_written(tmp_path: Path) -> None:
    """A process of another node that read an empty one took the run for another, and left."""
    run = RunFolder("digits", tmp_path)
    run.save_config({"seed_everything": 0})
    os.utime(run.config, (1, 1))
    run.save_config({"seed_everything": 0})
    assert run.config.stat().st_mtime == 1, "the same is not written again"
    run.save_config({"seed_everything": 1})
    assert run.config.read_text() == "seed_everything: 1\n"
    assert (run.path / "config.1.yaml").read_text() == "seed_everything: 0\n"


def test_where_data_lie_and_what_is_shown_is_no_change_and_a_value_is() -> None:
    def settings(place: str, rate: float) -> dict[str, Any]:
        source = {"class_path": "S", "init_args": {"root": place, "folder": place, "cache": place}}
        data = {"init_args": {"num_workers": len(place), "source": source, "rootless": rate}}
        return {"data": data, "trainer": {"devices": place, "enable_progress_bar": place}}

    assert not list(differences(settings("a", 1), settings("bcd", 1)))
    (change,) = differences(settings("a", 1), settings("a", 2))
    assert change == ("data.init_args.rootless", 1, 2)


@pytest.mark.parametrize("part", ["checkpoints/best.ckpt", "panel.png", "checkpoints"])
def test_a_part_of_a_run_is_answered_with_the_runs_name(
    part: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for run in (Path("runs/x"), Path("elsewhere/y")):
        (run / "checkpoints").mkdir(parents=True)
        (run / "config.yaml").touch()
        found = "x" if run.parent.name == "runs" else str(run)
        with pytest.raises(ValueError, match=rf"give the run's name or folder: {found}$"):
            RunFolder.found(run / part)
    Path("a.ckpt").touch()
    with pytest.raises(ValueError, match=r"^a.ckpt is a file; give the name or the folder of a"):
        RunFolder.found("a.ckpt")


def test_a_misspelt_run_is_answered_with_the_nearest_that_has_been_trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("runs/quickstart/checkpoints").mkdir(parents=True)
    Path("runs/refused").mkdir()
    Path("runs/refused/config.yaml").touch()  # its data were missing, so it never began
    with pytest.raises(ValueError, match=r"did you mean quickstart\?; runs here: quickstart;"):
        RunFolder.found("quikstart")


def test_a_configuration_that_cannot_be_written_leaves_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = RunFolder("digits", tmp_path)
    run.save_config({"seed_everything": 0})

    def full(_: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("stn_lightning.runs.folder.atomic_write", full)
    with pytest.raises(OSError, match="No space left"):
        run.save_config({"seed_everything": 1})
    assert run.read_config() == {"seed_everything": 0}


def test_an_old_run_is_put_back_where_the_new_one_cannot_be_emptied(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = RunFolder("digits", tmp_path)
    run.save_config({"seed_everything": 0})
    moved = run.set_aside()
    assert moved is not None
    run.save_config({"seed_everything": 1})
    # NFS keeps open files
    monkeypatch.setattr(shutil, "rmtree", lambda *_, **__: None)
    run.put_back(moved)
    assert run.read_config() == {"seed_everything": 0}


@pytest.mark.parametrize("name", ["tables", "sweeps", "bench"])
def test_a_run_cannot_have_the_name_of_another_folder(name: str, stn: Stn) -> None:
    code, _, err = stn("fit", *QUICK, "--name", name)
    assert (code, err.count("\n")) == (2, 1)
    assert f"runs/{name} is for other files; give another name" in err


def test_data_differ_by_any_setting_but_those_of_speed() -> None:
    def settings(**data: Any) -> dict[str, Any]:
        return {"data": {"init_args": {"source": {"init_args": {"file": "a"}}, **data}}}

    before = settings(batch_size=8, num_workers=1, cache=None)
    assert data_difference(before, settings(batch_size=9, num_workers=2, cache="c", new=1)) is None
    changed = settings(batch_size=8, source={"init_args": {"file": "b"}})
    assert data_difference(before, changed) == ("data.init_args.source.init_args.file", "a", "b")


@pytest.mark.parametrize(
    ("key", "changes"),
    [
        ("trainer.devices", False),
        ("trainer.log_every_n_steps", False),
        ("trainer.gradient_clip_val", True),
        ("trainer.accumulate_grad_batches", True),
        ("data.init_args.source.init_args.root", False),
        ("data.init_args.num_workers", False),
        ("data.init_args.source.init_args.side", True),
        ("data.init_args.batch_size", True),
        ("model.init_args.label_smoothing", True),
    ],
)
def test_settings_that_change_what_is_computed(key: str, changes: bool) -> None:
    def settings(value: int) -> dict[str, Any]:
        nested: Any = value
        for part in reversed(key.split(".")):
            nested = {part: nested}
        return dict(nested)

    assert [each.key for each in differences(settings(1), settings(2))] == [key] * changes

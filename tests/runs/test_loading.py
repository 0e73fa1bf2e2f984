"""A trained run in three lines, and the checkpoint that it is read from."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from jsonargparse import ArgumentParser
from PIL import Image

import stn_lightning
from stn_lightning import zoo
from stn_lightning.analysis.predict import predict
from stn_lightning.analysis.zoo import zoo as zoo_command
from stn_lightning.cli.typed_command import call
from stn_lightning.runs import initial_weights
from stn_lightning.tasks import ClassificationTask, DistillationTask


@pytest.fixture
def copied(small_run: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(small_run, tmp_path / "small"))


def test_three_lines_predict_an_image(small_run: Path, tmp_path: Path) -> None:
    Image.new("RGB", (60, 40), "white").save(tmp_path / "a.png")
    run = stn_lightning.load_run(small_run)
    (prediction,) = run.predict([tmp_path / "a.png"])
    assert run.image_shape == (1, 42, 42)
    assert run.class_names == tuple("0123456789")
    probabilities = run.network(run.preprocess(tmp_path / "a.png")[None])[0].softmax(0)
    assert prediction.label == run.class_names[int(probabilities.argmax())]
    torch.testing.assert_close(prediction.probabilities, probabilities.detach())
    torch.testing.assert_close(
        run.preprocess(Image.open(tmp_path / "a.png")), run.preprocess(tmp_path / "a.png")
    )


def test_a_loaded_network_evaluates(small_run: Path) -> None:
    run = stn_lightning.load_run(small_run)
    assert not any(module.training for module in run.network.modules())


def test_device_and_dtype_are_chosen(small_run: Path) -> None:
    run = stn_lightning.load_run(small_run, device="cpu", dtype=torch.float64)
    assert {p.dtype for p in run.network.parameters()} == {torch.float64}
    logits, record = run.infer(torch.rand(2, 1, 42, 42))
    assert logits.dtype == torch.float64
    assert record is not None


def test_a_run_is_a_teacher_in_yaml(small_run: Path) -> None:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(DistillationTask, "model")
    teacher = {
        "class_path": "stn_lightning.runs.loading.trained_network",
        "init_args": {"run": str(small_run)},
    }
    init_args = {
        "backbone": {"class_path": "stn_lightning.backbones.CNN", "init_args": {"num_filters": 4}},
        "optimizer": {"class_path": "torch.optim.AdamW", "init_args": {"lr": 0.1}},
        "teachers": [teacher, teacher],
    }
    config = {"class_path": "stn_lightning.tasks.DistillationTask", "init_args": init_args}
    task = parser.instantiate_classes(parser.parse_object({"model": config})).model
    image = torch.rand(2, 1, 42, 42)
    expected = stn_lightning.load_run(small_run, device="cpu").network(image).div(2).softmax(1)
    torch.testing.assert_close(task.teacher_probabilities(image), expected.detach())


def test_the_package_exports_load_run_without_importing_pytorch() -> None:
    code = (
        "import sys, stn_lightning; print('torch' in sys.modules, callable(stn_lightning.load_run))"
    )
    answer = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert answer.stdout.split() == ["False", "True"]


def test_last_ckpt_is_never_taken_for_the_best_without_being_asked_for(copied: Path) -> None:
    (copied / "checkpoints/best.ckpt").unlink()
    with pytest.raises(ValueError, match=r"best\.ckpt is missing; .* --checkpoint last\.ckpt"):
        stn_lightning.load_run(copied)
    run = stn_lightning.load_run(copied, checkpoint="last.ckpt")
    assert run.checkpoint == copied / "checkpoints/last.ckpt"
    assert "last.ckpt" in repr(run)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused_by_name(copied: Path, value: float) -> None:
    path = copied / "checkpoints/best.ckpt"
    checkpoint = torch.load(path, weights_only=True)
    name = next(name for name in checkpoint["state_dict"] if name.startswith("backbone."))
    checkpoint["state_dict"][name].view(-1)[0] = value
    torch.save(checkpoint, path)
    with pytest.raises(ValueError, match=rf"best\.ckpt: the weight {name} holds NaN or infinite"):
        stn_lightning.load_run(copied)


def test_bad_files_are_all_named(small_run: Path, tmp_path: Path) -> None:
    Image.new("RGB", (60, 40)).save(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes(b"")
    (tmp_path / "c.png").write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"b\.png: .*\n.*c\.png: "):
        stn_lightning.load_run(small_run).predict([tmp_path])


def test_load_from_checkpoint_says_what_to_use(small_run: Path) -> None:
    with pytest.raises(ValueError, match=r"use stn_lightning\.load_run") as refused:
        ClassificationTask.load_from_checkpoint(small_run / "checkpoints/last.ckpt")
    advice = str(refused.value).partition("use ")[2]
    assert eval(advice).backbone is not None


def test_a_damaged_record_is_named_and_gone_on_without(
    copied: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (copied / "results.json").write_text("{")
    assert stn_lightning.load_run(copied).record is None
    assert "results.json: this is no record of a run" in caplog.text


def test_a_finished_run_becomes_a_network_of_the_zoo(
    small_run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(zoo, "FOLDER", tmp_path)
    run = stn_lightning.load_run(small_run)
    assert run.record is not None
    with pytest.raises(ValueError, match="zoo:quickstart: no such network; there are: none yet"):
        stn_lightning.load_run("zoo:quickstart")
    assert call(zoo_command, [str(small_run), "--name", "quickstart", "--data", "digits"]) == 0
    shown = capsys.readouterr().out
    assert f"zoo:quickstart  {run.record.metrics['test/error']:.2f} % error" in shown
    card = zoo.read_card("quickstart")
    assert (card.data, card.licence, card.record["seed"]) == ("digits", "MIT", run.record.seed)
    network = stn_lightning.load_run("zoo:quickstart")
    assert network.class_names == run.class_names
    image = torch.rand(2, *run.image_shape)
    torch.testing.assert_close(network.network(image), run.network(image), rtol=0, atol=0)
    Image.new("L", (60, 40), 255).save(tmp_path / "a.png")
    assert call(predict, ["zoo:quickstart", str(tmp_path / "a.png")]) == 0
    assert f",{tmp_path}/quickstart.safetensors" in capsys.readouterr().out
    assert initial_weights.read_weights("zoo:quickstart").keys() == run.task.state_dict().keys()


@pytest.mark.parametrize(
    ("content", "complaint"),
    [(b"\xff\xfe: [", "byte 0: this is not UTF-8"), (b"a: [", "config.yaml:"), (b"[1]", "a list")],
)
def test_a_damaged_configuration_is_named(content: bytes, complaint: str, copied: Path) -> None:
    (copied / "config.yaml").write_bytes(content)
    with pytest.raises(ValueError, match=f"small/config.yaml:.*{complaint}|{complaint}"):
        stn_lightning.load_run(copied)


def test_weights_of_the_zoo_that_are_not_finite_start_no_training(
    small_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(zoo, "FOLDER", tmp_path)
    assert call(zoo_command, [str(small_run), "--name", "one", "--data", "digits"]) == 0
    weights = zoo.read_weights("one")
    next(iter(weights.values())).fill_(float("nan"))
    zoo.write("one", zoo.read_card("one"), weights)
    with pytest.raises(ValueError, match=r"one.safetensors: the weight .* NaN or infinite"):
        initial_weights.read_weights("zoo:one")


def test_a_checkpoint_without_weights_is_one_line(copied: Path) -> None:
    torch.save({"epoch": 3}, copied / "checkpoints/empty.ckpt")
    with pytest.raises(ValueError, match=r"empty.ckpt holds no weights of a network; give another"):
        stn_lightning.load_run(copied, checkpoint="empty.ckpt")

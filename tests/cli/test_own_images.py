"""A folder of one's own images: all are looked at first, and say how many classes there are."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from stn_lightning.analysis.evaluation import evaluate
from stn_lightning.runs.loading import TrainedNetwork
from tests.stn_command import Stn

FIT = ("fit", "--config", "configs/image_folder/small_st2.yaml", "--data.init_args.folder=images")
MOMENT = (
    "--trainer.max_epochs=1",
    "--trainer.limit_train_batches=1",
    "--trainer.accelerator=cpu",
    "--trainer.log_every_n_steps=1",
)


@pytest.fixture
def images(tmp_path: Path) -> Path:
    random = np.random.default_rng(0)
    for name in ("disc", "square", "star"):
        (tmp_path / "images" / name).mkdir(parents=True)
        for i in range(20):
            pixels = random.integers(0, 255, (128, 128, 3), np.uint8)
            Image.fromarray(pixels).save(tmp_path / f"images/{name}/{i}.png")
    return tmp_path / "images"


def test_a_backbone_that_is_not_told_takes_the_datas_number_of_classes(
    images: Path, stn: Stn, tmp_path: Path
) -> None:
    assert stn(*FIT, *MOMENT)[0] == 0
    config = yaml.safe_load((tmp_path / "runs/small_st2/config.yaml").read_text())
    assert config["model"]["init_args"]["backbone"]["init_args"]["num_classes"] == 3
    assert stn("test", "--name", "small_st2")[0] == 0
    option = "--model.init_args.backbone.init_args.num_classes"
    (tmp_path / "told.yaml").write_text("model: {backbone: {init_args: {num_classes: 4}}}\n")
    for told in ((option, "4"), (f"{option}=4",), ("--config", "told.yaml")):
        code, _, err = stn(*FIT, *MOMENT, *told, "--name", "other")
        assert code == 2
        assert "has 4 classes, the data has 3" in err
        assert f"leave the backbone's num_classes out, or give {option} 3" in err


def test_all_images_that_cannot_be_read_are_named_before_the_first_step(
    images: Path, stn: Stn, tmp_path: Path
) -> None:
    bad = [images / "disc/3.png", images / "star/7.png", images / "star/8.png"]
    bad[0].write_bytes(b"")
    for path in bad[1:]:
        path.write_bytes(path.read_bytes()[:900])
    code, out, err = stn(*FIT, *MOMENT)
    assert code == 2
    assert all(str(path.relative_to(tmp_path)) in err for path in bad)
    assert "3 images cannot be read" in err
    assert "leave them out by --data.init_args.skip_unreadable=true" in err
    assert "epoch" not in out
    code, _, err = stn(*FIT, *MOMENT, "--data.init_args.skip_unreadable=true")
    assert code == 0
    assert "images: skipped 3 images that cannot be read; the first: images/disc/3.png" in err
    code, _, err = stn(*FIT, *MOMENT, "--data.init_args.skip_unreadable=true", "--resume=must")
    assert code == 0, err


def test_a_class_with_another_name_than_in_the_training_is_an_error(images: Path, stn: Stn) -> None:
    assert stn(*FIT, *MOMENT)[0] == 0
    (images / "disc").rename(images / "triangle")  # now the last class, not the first
    for command in (
        ("test", "--name", "small_st2"),
        ("validate", "--name", "small_st2"),
        (*FIT, *MOMENT, "--trainer.max_epochs=2"),
    ):
        code, _, err = stn(*command)
        assert code == 2
        assert "class 0 of the data is square, and was disc in the training" in err
    with pytest.raises(ValueError, match="class 0 of the data is square, and was disc"):
        evaluate(TrainedNetwork.load("runs/small_st2"))  # as stn report does


def test_a_run_is_not_resumed_on_other_images(images: Path, stn: Stn, tmp_path: Path) -> None:
    assert stn(*FIT, *MOMENT)[0] == 0
    file = tmp_path / "runs/small_st2/results.json"
    before = json.loads(file.read_text())
    shutil.copytree(images, tmp_path / "moved")
    moved = ("--data.init_args.folder=moved",)
    code, out, _ = stn(*FIT, *MOMENT, *moved)  # the same images in another place
    assert code == 0
    assert "test error" in out
    shutil.copytree(images, tmp_path / "more")
    for name in ("new.png", "newer.png", "newest.png", "last.png"):  # 3 of 10 are not for training
        shutil.copy(images / "disc/1.png", tmp_path / f"more/disc/{name}")
    for longer in ((), ("--trainer.max_epochs=2",)):
        code, _, err = stn(*FIT, *MOMENT, "--data.init_args.folder=more", *longer)
        assert code == 2
        assert "images have other names, labels or splits than those of the checkpoint" in err
    assert stn(*FIT, *MOMENT)[0] == 0
    code, out, _ = stn("test", "--name=small_st2", "--data.init_args.folder=more")
    assert code == 0
    assert "results.json is not changed: data.init_args.folder is more, and images in" in out
    assert json.loads(file.read_text())["metrics"] == before["metrics"]


def test_a_folder_that_cannot_be_reached_is_named_and_no_change_of_classes(
    images: Path, stn: Stn
) -> None:
    assert stn(*FIT, *MOMENT)[0] == 0
    images.rename("away")
    code, _, err = stn(*FIT, *MOMENT, "--trainer.max_epochs=2")
    assert code == 2
    assert "num_classes" not in err
    assert "images: No such file or directory; give a folder" in err

"""Export and prediction of a network of every kind of experiment: as the run, or one line that says
why not.
"""

from pathlib import Path

import pytest
from PIL import Image

from stn_lightning.analysis.export import export
from stn_lightning.analysis.predict import predict
from stn_lightning.cli.typed_command import call
from stn_lightning.datasets import svhn
from tests.analysis.test_export import NEEDS_ONNX
from tests.cub_miniature import CLASSES, write_cub
from tests.mnist_miniature import write_mnist
from tests.stn_command import Stn
from tests.svhn_miniature import write_svhn

HALF_A_NUMBER = (
    "--model.init_args.backbone.init_args.width",
    "0.1",
    "--data.init_args.batch_size",
    "8",
)
BIRDS = (
    "--model.init_args.backbone.init_args.num_classes",
    str(CLASSES),
    "--data.init_args.batch_size",
    "2",
)
KINDS = {
    "addition": (["addition/st2_fcn_tps", "addition/sum"], (), "takes images of shape (2, 42, 42)"),
    "volumes": (
        ["volumes/st_cnn", "volumes/posed"],
        ("--data.init_args.batch_size", "8"),
        "takes images of shape (1, 30, 30, 30)",
    ),
    "co-localisation": (
        ["colocalisation/network", "colocalisation/translated"],
        ("--data.init_args.num_images", "4"),
        None,
    ),
    "house numbers, one transformer": (
        ["svhn/networks/st_single", "svhn/data/64"],
        HALF_A_NUMBER,
        None,
    ),
    "house numbers, four": (["svhn/networks/st_multi", "svhn/data/64"], HALF_A_NUMBER, None),
    "house numbers, shared layers": (
        ["svhn/networks/st_shared", "svhn/data/64"],
        HALF_A_NUMBER,
        None,
    ),
    "birds": (["cub/networks/small_st2", "cub/data/20_classes"], BIRDS, None),
}
"""Configuration files, what makes them small, and why images in files are refused."""


@pytest.mark.slow
@NEEDS_ONNX
@pytest.mark.parametrize("kind", KINDS)
def test_a_network_of_every_kind_is_exported_and_asked(
    kind: str,
    stn: Stn,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    files, small, refused = KINDS[kind]
    write_mnist(tmp_path / "data/mnist", monkeypatch)
    monkeypatch.setattr(svhn, "VALIDATION", 8)
    if "svhn" in files[0]:
        write_svhn(tmp_path / "data/svhn", 24, 8, 8)
    if "cub" in files[0]:
        write_cub(tmp_path / "data/cub")
    limits = {
        "max_epochs": 1,
        "limit_train_batches": 1,
        "limit_test_batches": 1,
        "check_val_every_n_epoch": 1,
        "log_every_n_steps": 1,
    }
    moment = [f"--trainer.{name}={value}" for name, value in limits.items()]
    if "colocalisation" in files[0]:
        assert stn("fit", "--config", "configs/colocalisation/encoder.yaml", *moment)[0] == 0
    named = [part for name in files for part in ("--config", f"configs/{name}.yaml")]
    code, _, err = stn(
        "fit", *named, *small, *moment, "--trainer.accelerator", "cpu", "--name", "one"
    )
    assert (code, err) == (0, "")
    assert call(export, ["one"]) == 0
    assert capsys.readouterr().out.count(": the logits of the run, to ") == 3
    Image.new("RGB", (60, 40), "white").save(tmp_path / "a.png")
    assert call(predict, ["one", "a.png"]) == (2 if refused else 0)
    said = capsys.readouterr()
    if refused:
        assert refused in said.err
        assert said.err.count("\n") == 1
    else:
        assert said.out.splitlines()[1].startswith("a.png,")

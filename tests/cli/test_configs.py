"""Every configuration file builds and runs a step, and network and data files pair freely."""

import itertools
import json
from pathlib import Path

import pytest
import yaml
from lightning import Trainer

from stn_lightning.callbacks import Compile
from stn_lightning.cli.command import CommandLine
from stn_lightning.datasets import MNIST, svhn
from stn_lightning.launch.table_format import read_table
from stn_lightning.runs.folder import default_name
from stn_lightning.synthetic import numbers_datamodule
from tests.mnist_miniature import write_mnist
from tests.stn_command import CONFIGS, Stn
from tests.svhn_miniature import write_svhn

NETWORKS = sorted(path.stem for path in (CONFIGS / "mnist/networks").glob("*.yaml"))
DATA = sorted(path.stem for path in (CONFIGS / "mnist/data").glob("*.yaml"))
PAIRS = [
    *((network, "rts") for network in NETWORKS),
    *(("st_cnn_affine", data) for data in DATA if data != "rts"),
    ("cnn", "cluttered"),
]
ONE_STEP = ("--trainer.fast_dev_run", "true", "--trainer.accelerator", "cpu")


def test_the_eight_networks_and_five_data_sets_of_table_1_are_there_and_seven_networks_beyond() -> (
    None
):
    assert NETWORKS == [
        "cnn", "fcn", "modern", "st_cnn_affine", "st_cnn_diffeomorphic", "st_cnn_learnt_target",
        "st_cnn_projective", "st_cnn_tps", "st_compact", "st_fcn_affine", "st_fcn_projective",
        "st_fcn_tps", "st_modern", "st_modern_composed", "st_modern_moments",
    ]  # fmt: skip
    assert DATA == ["cluttered", "elastic", "projective", "rotated", "rts"]


@pytest.mark.parametrize(("network", "data"), PAIRS)
def test_a_network_and_a_data_set_pair_and_take_a_step(
    network: str, data: str, stn: Stn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_mnist(tmp_path / "data/mnist", monkeypatch)
    files = (f"configs/mnist/networks/{network}.yaml", f"configs/mnist/data/{data}.yaml")
    code, out, err = stn("fit", "--config", files[0], "--config", files[1], *ONE_STEP)
    assert (code, err) == (0, "")
    assert f"training runs/{network}-{data}" in out


@pytest.mark.parametrize(
    "experiment",
    [
        ("mnist/networks/st_cnn_affine", "mnist/data/rts"),
        ("addition/st2_fcn_affine", "addition/sum"),
    ],
)
def test_the_papers_recipe_goes_on_top_of_any_network(
    experiment: tuple[str, str], stn: Stn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_mnist(tmp_path / "data/mnist", monkeypatch)
    files = [f"configs/{file}.yaml" for file in (*experiment, "mnist/recipes/paper")]
    options = [word for file in files for word in ("--config", file)]
    code, out, err = stn(
        "fit",
        *options,
        "--trainer.max_steps",
        "6",
        "--trainer.accelerator",
        "cpu",
        "--trainer.log_every_n_steps",
        "1",
    )
    assert (code, err) == (0, "")
    name = "-".join(Path(file).stem for file in files)
    assert f"training runs/{name}" in out
    chosen = yaml.safe_load((tmp_path / "runs" / name / "config.yaml").read_text())
    assert chosen["model"]["init_args"]["optimizer"] == {
        "class_path": "torch.optim.SGD",
        "init_args": {
            **chosen["model"]["init_args"]["optimizer"]["init_args"],
            "lr": 0.01,
            "momentum": 0.9,
            "weight_decay": 0.0,
        },
    }
    assert (
        chosen["data"]["init_args"]["batch_size"],
        chosen["data"]["init_args"]["curriculum"],
    ) == (256, 0.0)


def test_a_curriculum_is_a_file_on_top(
    stn: Stn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_mnist(tmp_path / "data/mnist", monkeypatch)
    files = [
        f"configs/mnist/{file}.yaml"
        for file in ("networks/st_modern", "data/rotated", "recipes/curriculum")
    ]
    options = (
        "--trainer.max_epochs",
        "1",
        "--trainer.accelerator",
        "cpu",
        "--trainer.log_every_n_steps",
        "1",
    )
    code, _, err = stn("fit", *(word for file in files for word in ("--config", file)), *options)
    assert (code, err) == (0, "")
    chosen = yaml.safe_load(
        (tmp_path / "runs/st_modern-rotated-curriculum/config.yaml").read_text()
    )
    assert chosen["data"]["init_args"]["curriculum"] == 0.33


def test_all_training_images_are_a_file_on_top_and_the_last_checkpoint_is_tested(
    stn: Stn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_mnist(tmp_path / "data/mnist", monkeypatch)
    files = [
        f"configs/mnist/{file}.yaml"
        for file in ("networks/st_fcn_affine", "data/rts", "recipes/all_images")
    ]
    options = ("--trainer.max_epochs", "1", "--trainer.log_every_n_steps", "1")
    code, _, err = stn("fit", *(word for file in files for word in ("--config", file)), *options)
    assert code == 0
    assert err.endswith(
        "best.ckpt is missing; using runs/st_fcn_affine-rts-all_images/checkpoints/last.ckpt\n"
    )
    run = tmp_path / "runs/st_fcn_affine-rts-all_images"
    assert [file.name for file in (run / "checkpoints").iterdir()] == ["last.ckpt"]
    assert "test/error" in json.loads((run / "results.json").read_text())["metrics"]


def test_crops_that_straighten_are_a_file_on_top(
    stn: Stn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_mnist(tmp_path / "data/mnist", monkeypatch)
    files = [
        f"configs/mnist/{file}.yaml"
        for file in ("networks/st_cnn_affine", "data/rts", "recipes/straighten")
    ]
    code, out, err = stn("fit", *(word for file in files for word in ("--config", file)), *ONE_STEP)
    assert (code, err) == (0, "")
    assert "221,700 parameters" in out


def test_distillation_is_a_file_on_top_and_takes_a_run_as_its_teacher(
    stn: Stn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_mnist(tmp_path / "data/mnist", monkeypatch)
    files = [
        f"--config=configs/mnist/{file}.yaml"
        for file in ("networks/st_compact", "data/rts", "recipes/sixty", "recipes/distilled")
    ]
    cpu = ("--trainer.accelerator", "cpu", "--trainer.log_every_n_steps", "1")
    code, _, err = stn("fit", *files[:2], "--name", "first", "--trainer.max_epochs", "1", *cpu)
    assert (code, err) == (0, "")
    teacher = "{class_path: stn_lightning.runs.loading.trained_network, init_args: {run: first}}"
    teachers = ("--model.init_args.teachers", f"[{teacher}]")
    code, _, err = stn("fit", *files, *teachers, "--trainer.max_epochs", "1", *cpu)
    assert (code, err) == (0, "")
    name = "st_compact-rts-sixty-distilled"
    model = yaml.safe_load((tmp_path / f"runs/{name}/config.yaml").read_text())["model"]
    assert model["class_path"] == "stn_lightning.tasks.DistillationTask"
    assert model["init_args"]["weight"] == 0.9
    assert model["init_args"]["optimizer"]["init_args"]["lr"] == 4e-3  # as st_compact says


def test_an_antialiased_sampler_is_a_file_on_top(
    stn: Stn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_mnist(tmp_path / "data/mnist", monkeypatch)
    files = [
        f"configs/mnist/{file}.yaml"
        for file in ("networks/st_cnn_tps", "data/cluttered", "recipes/antialiased")
    ]
    code, _, err = stn("fit", *(word for file in files for word in ("--config", file)), *ONE_STEP)
    assert (code, err) == (0, "")


@pytest.mark.parametrize("data", ["mnist/data/cluttered", "addition/sum"])
def test_no_test_image_is_loaded_before_training_and_the_choice_of_a_checkpoint_are_over(
    data: str, stn: Stn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_mnist(tmp_path / "data/mnist", monkeypatch)
    story: list[str] = []
    load, test = MNIST.load, Trainer.test
    monkeypatch.setattr(
        MNIST,
        "load",
        lambda source, split: story.append(split) or load(source, split),  # type: ignore[func-returns-value]
    )
    told = lambda *args, **options: story.append("now") or test(*args, **options)  # type: ignore[func-returns-value]  # noqa: E731
    monkeypatch.setattr(Trainer, "test", told)
    files = (
        "--config",
        "configs/mnist/networks/st_fcn_affine.yaml",
        "--config",
        f"configs/{data}.yaml",
    )
    code, _, err = stn(
        "fit",
        *files,
        "--trainer.max_epochs",
        "2",
        "--trainer.accelerator",
        "cpu",
        "--trainer.log_every_n_steps",
        "1",
    )
    assert (code, err) == (0, "")
    assert set(story[: story.index("now")]) == {"train", "val"}
    assert story[story.index("now") :] == ["now", "test"]


ADDITION = [
    f"configs/addition/st2_fcn_{family}.yaml"
    for family in ("affine", "projective", "tps", "moments")
]


@pytest.mark.parametrize(
    "network",
    [*ADDITION, "configs/mnist/networks/st_fcn_affine.yaml", "configs/mnist/networks/cnn.yaml"],
)
def test_a_network_adds_two_digits(
    network: str, stn: Stn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_mnist(tmp_path / "data/mnist", monkeypatch)
    code, _, err = stn(
        "fit", "--config", network, "--config", "configs/addition/sum.yaml", *ONE_STEP
    )
    assert (code, err) == (0, "")


def test_what_images_have_in_common_is_looked_for_with_an_encoder_that_is_trained_first(
    stn: Stn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_mnist(tmp_path / "data/mnist", monkeypatch)
    files = (
        "--config",
        "configs/colocalisation/network.yaml",
        "--config",
        "configs/colocalisation/cluttered.yaml",
    )
    code, _, err = stn("fit", *files, *ONE_STEP, "--data.init_args.num_images", "2")
    assert code == 2
    assert "train the encoder first: make train CONFIG=configs/colocalisation/encoder.yaml" in err
    short = (
        "--trainer.max_epochs",
        "1",
        "--trainer.limit_train_batches",
        "1",
        "--trainer.log_every_n_steps",
        "1",
    )
    assert stn("fit", "--config", "configs/colocalisation/encoder.yaml", *short)[0] == 0
    code, _, err = stn("fit", *files, *ONE_STEP, "--data.init_args.num_images", "2")
    assert (code, err) == (0, "")


@pytest.mark.parametrize("network", ["st_cnn", "cnn"])
def test_a_network_reads_digits_in_space(
    network: str, stn: Stn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_mnist(tmp_path / "data/mnist", monkeypatch)
    files = (
        "--config",
        f"configs/volumes/{network}.yaml",
        "--config",
        "configs/volumes/posed.yaml",
    )
    code, _, err = stn("fit", *files, *ONE_STEP)
    assert (code, err) == (0, "")


SVHN_FILES = [
    ("cnn", "64"),
    ("st_multi", "64"),
    ("st_shared", "64"),
    ("st_single", "128"),
    ("st_multi", "synthetic_64"),
]
SMALL = ("--config", "configs/svhn/recipes/small.yaml", "--data.init_args.batch_size", "8")


@pytest.mark.parametrize(("network", "data"), SVHN_FILES)
def test_a_network_for_house_numbers_takes_a_step_on_real_and_on_synthetic_images(
    network: str, data: str, stn: Stn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(svhn, "VALIDATION", 8)
    monkeypatch.setitem(numbers_datamodule.DRAWN, "train", (16, 0))
    monkeypatch.setitem(numbers_datamodule.DRAWN, "val", (8, 1))
    monkeypatch.setattr(numbers_datamodule, "VALIDATION", 8)
    write_mnist(tmp_path / "data/mnist", monkeypatch)
    write_svhn(tmp_path / "data/svhn", 24, 8, 8)
    small = (
        [*SMALL]
        if "synthetic" in data
        else [*SMALL[2:], "--model.init_args.backbone.init_args.width", "0.1"]
    )
    files = (
        "--config",
        f"configs/svhn/networks/{network}.yaml",
        "--config",
        f"configs/svhn/data/{data}.yaml",
    )
    code, _, err = stn("fit", *files, *small, *ONE_STEP)
    assert (code, err) == (0, "")


def test_the_papers_recipe_for_house_numbers_goes_on_top(
    stn: Stn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(svhn, "VALIDATION", 8)
    write_svhn(tmp_path / "data/svhn", 24, 8, 8)
    names = ("networks/st_multi", "data/64", "recipes/paper")
    files = [part for name in names for part in ("--config", f"configs/svhn/{name}.yaml")]
    small = (
        "--model.init_args.backbone.init_args.width",
        "0.1",
        "--data.init_args.batch_size",
        "8",
    )
    code, _, err = stn("fit", *files, *small, *ONE_STEP)
    assert (code, err) == (0, "")


@pytest.mark.parametrize("name", ["quickstart", "quickstart_cnn"])
def test_a_quickstart_takes_a_step_without_any_data_folder(name: str, stn: Stn) -> None:
    code, _, err = stn("fit", "--config", f"configs/{name}.yaml", *ONE_STEP)
    assert (code, err) == (0, "")


def test_the_two_quickstarts_differ_in_the_transformer_alone() -> None:
    with_it, without = (
        yaml.safe_load((CONFIGS / f"{name}.yaml").read_text())
        for name in ("quickstart", "quickstart_cnn")
    )
    assert with_it["model"]["init_args"].pop("transformer")
    assert with_it == without


@pytest.mark.parametrize(
    "overlay", sorted(path.name for path in (CONFIGS / "hardware").glob("*.yaml"))
)
def test_a_hardware_file_sets_the_trainer_and_nothing_else(overlay: str) -> None:
    assert list(yaml.safe_load((CONFIGS / "hardware" / overlay).read_text())) == ["trainer"]


@pytest.mark.parametrize("overlay", ["cpu", "bf16"])  # the others need a GPU
def test_a_hardware_file_goes_on_top_of_any_experiment(overlay: str, stn: Stn) -> None:
    files = ("--config", "configs/quickstart.yaml", "--config", f"configs/hardware/{overlay}.yaml")
    code, out, err = stn("fit", *files, *ONE_STEP)
    assert (code, err) == (0, "")
    assert f"training runs/quickstart-{overlay}" in out


def test_the_files_for_several_gpus_and_for_compiling_reach_what_they_are_about(
    stn: Stn, monkeypatch: pytest.MonkeyPatch
) -> None:
    built: list[CommandLine] = []
    monkeypatch.setattr(CommandLine, "_fit", lambda command: built.append(command))
    files = [
        word
        for file in ("quickstart", "hardware/ddp", "hardware/compile")
        for word in ("--config", f"configs/{file}.yaml")
    ]
    code, _, err = stn(
        "fit", *files, "--trainer.accelerator=cpu", "--trainer.devices=2", "--prepare=first"
    )
    assert (code, err) == (0, "")
    (command,) = built
    assert (
        command.trainer.strategy._ddp_kwargs.items()  # type: ignore[attr-defined]
        >= {"gradient_as_bucket_view": True, "bucket_cap_mb": 25}.items()
    )
    assert any(isinstance(callback, Compile) for callback in command.trainer.callbacks)  # type: ignore[attr-defined]
    assert not command.datamodule.prepare_data_per_node


@pytest.mark.parametrize("path", sorted(CONFIGS.rglob("*.yaml")), ids=lambda path: path.stem)
def test_a_configuration_begins_with_a_comment_that_says_what_it_is(path: Path) -> None:
    assert path.read_text().startswith("# ")


def test_runs_of_all_tables_have_names_of_their_own() -> None:
    files: dict[str, tuple[Path, Path]] = {}
    for path in sorted((CONFIGS / "tables").glob("*.yaml")):
        table = read_table(path)
        for pair in itertools.product(table.rows.values(), table.columns.values()):
            assert files.setdefault(default_name(list(pair)), pair) == pair
    assert len(files) > 80

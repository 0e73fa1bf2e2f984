"""A learning rate and a batch size are suggested, and nothing is written."""

from pathlib import Path

import pytest
import torch
from torch.optim.optimizer import register_optimizer_step_post_hook

from stn_lightning.cli import tune as module
from stn_lightning.cli.tune import Tuning, largest_batch, tune
from stn_lightning.cli.typed_command import call
from stn_lightning.tasks import ClassificationTask
from tests.stn_command import CONFIGS

QUICK = (
    "--config",
    "configs/quickstart.yaml",
    "--model.init_args.backbone.init_args.num_filters",
    "8",
)


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "configs").symlink_to(CONFIGS)


def test_a_learning_rate_is_suggested_as_the_option_that_takes_it_and_nothing_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert (
        call(tune, [*QUICK, "--steps", "120", "--trainer.max_epochs", "1"]) == 0
    )  # one epoch has 35
    said, option = capsys.readouterr().out.splitlines()
    assert said.endswith("of 120 steps from 1e-05 to 1e+00")
    name, rate = option.split()
    assert name == "--model.init_args.optimizer.init_args.lr"
    assert 1e-4 < float(rate) < 0.1
    assert [path.name for path in tmp_path.iterdir()] == ["configs"]


def test_transformers_learn_at_their_part_of_the_rate_while_it_is_searched() -> None:
    seen: list[list[float]] = []
    watch = register_optimizer_step_post_hook(
        lambda optimizer, *_: seen.append([group["lr"] for group in optimizer.param_groups])
    )
    assert (
        call(tune, [*QUICK, "--steps", "20", "--model.init_args.localisation_lr_scale", "0.1"]) == 0
    )
    watch.remove()
    assert len(seen) == 20
    assert all(localisation == pytest.approx(0.1 * backbone) for backbone, localisation in seen)
    assert seen[-1][0] > 1e4 * seen[0][0]


@pytest.mark.parametrize(("fits", "found"), [(70, 64), (20, 16), (10_000, 150)])
def test_the_batch_is_doubled_until_it_does_not_fit_or_holds_all_images(
    fits: int, found: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = ClassificationTask.training_step

    def step(self: ClassificationTask, batch: object, batch_idx: int) -> torch.Tensor:
        if len(batch.label) > fits:  # type: ignore[attr-defined]
            raise RuntimeError("CUDA out of memory.")
        return whole(self, batch, batch_idx)  # type: ignore[arg-type]

    monkeypatch.setattr(ClassificationTask, "training_step", step)
    options = [
        *QUICK,
        "--data.init_args.train_size=150",
        *(f"--trainer.{setting}" for setting in module.TRAINER),
    ]
    command = Tuning(["fit", *options], tmp_path / "tuning", None)
    assert largest_batch(command) == found


MISTAKES = {
    "no configuration": (
        [],
        "given; take them from a file, for example --config configs/quickstart.yaml",
    ),
    "too few steps": (
        [*QUICK, "--steps", "5"],
        "stn tune: --steps 5 are too few; give 20 or more",
    ),
    "no GPU": (
        [*QUICK, "--batch-size"],
        "stn tune: --batch-size doubles the batch until the memory of a GPU",
    ),
    "an unknown option": (
        [*QUICK, "--trainer.max_epoch", "3"],
        "did you mean --trainer.max_epochs?",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_line(mistake: str, capsys: pytest.CaptureFixture[str]) -> None:
    arguments, expected = MISTAKES[mistake]
    try:
        code = call(tune, arguments)
    except SystemExit as leaving:
        code = int(leaving.code or 0)
    said = capsys.readouterr().err.strip()
    assert (code, expected in said, "\n" in said) == (2, True, False), said

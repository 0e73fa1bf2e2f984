from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.plugins import MixedPrecision
from torch import Tensor, nn

from stn_lightning.batch import Batch
from stn_lightning.callbacks import LabelCheck
from stn_lightning.runtime.checkpoint_io import load_checkpoint
from stn_lightning.runtime.guards import (
    NonFiniteError,
    NonFiniteGuard,
    _all_finite,
    require_finite,
)
from tests.reliability.training import Poison, record, train

pytestmark = [
    pytest.mark.filterwarnings(
        "ignore:The '.*_dataloader' does not have many workers"
    ),  # the data are in memory
]


def finite(checkpoint: dict[str, Any]) -> bool:
    return all(bool(tensor.isfinite().all()) for tensor in checkpoint["state_dict"].values())


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize(("gradient", "what"), [(False, "the loss is"), (True, "a gradient is")])
def test_a_loss_or_gradient_that_is_not_finite_stops_before_its_step(
    tmp_path: Path, value: float, gradient: bool, what: str
) -> None:
    with pytest.raises(
        NonFiniteError, match=rf"{what} not finite in step 5 \(the first is 0\) of process 0"
    ) as found:
        train(tmp_path, Poison(5, value, gradient=gradient), seconds=0.0)
    losses = [line[5] for line in record(tmp_path, "train")]
    assert len(losses) == 5
    assert f"the last finite loss was {losses[-1]:.6g} in step 4" in str(found.value)
    last = load_checkpoint(tmp_path / "checkpoints" / "last.ckpt")
    assert (last["global_step"], finite(last)) == (5, True)


def test_after_a_loss_that_was_not_finite_the_training_goes_on_as_if_it_never_happened(
    tmp_path: Path,
) -> None:
    straight, poisoned = tmp_path / "straight", tmp_path / "poisoned"
    train(straight, epochs=2)
    with pytest.raises(NonFiniteError):
        train(poisoned, Poison(5, torch.nan), seconds=0.0, epochs=2)
    train(poisoned, epochs=2)
    assert record(poisoned) == record(straight)


@pytest.mark.parametrize("gradient", [False, True])
def test_half_an_accumulated_gradient_that_is_not_finite_is_not_saved(
    tmp_path: Path, gradient: bool
) -> None:
    with pytest.raises(NonFiniteError, match=r"(after|in step) 1 "):
        train(
            tmp_path,
            Poison(1, torch.nan, gradient=gradient),
            seconds=0.0,
            accumulate_grad_batches=4,
        )
    last = load_checkpoint(tmp_path / "checkpoints" / "last.ckpt")
    assert all(bool(part.isfinite().all()) for part in last["exact_state"]["gradients"][0].values())
    assert finite(last)


class OnDevice(NonFiniteGuard):
    """As on a GPU: looks every so often only."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_train_start(trainer, pl_module)
        self.interval = self.every


@pytest.mark.parametrize(("seconds", "steps"), [(None, 9), (0.0, 6)])
def test_between_looks_nothing_is_saved_and_the_first_finding_is_told(
    tmp_path: Path, seconds: float | None, steps: int
) -> None:
    with pytest.raises(NonFiniteError, match=r"the loss is not finite in step 5 .* in step 4;"):
        train(tmp_path, Poison(5, torch.nan), guard=OnDevice(every=9), seconds=seconds)
    assert len(record(tmp_path, "train")) == steps
    assert finite(load_checkpoint(tmp_path / "checkpoints" / "last.ckpt"))


def test_a_parameter_that_is_not_finite_is_not_saved(tmp_path: Path) -> None:
    class Break(Callback):
        def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
            if trainer.global_step == 3:
                next(pl_module.parameters()).data[0, 0] = torch.inf

    with pytest.raises(
        NonFiniteError,
        match=r"a parameter, its gradient or a running statistic is not finite after 3 steps; "
        r"the last finite loss was .* in step 2",
    ):
        train(tmp_path, Break(), seconds=0.0)
    last = load_checkpoint(tmp_path / "checkpoints" / "last.ckpt")
    assert (last["global_step"], finite(last)) == (2, True)


class SpoiltValidation(Callback):
    """Makes the weights infinite while it validates."""

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        pl_module.backbone[1].bias.data.fill_(torch.nan)  # type: ignore[index, union-attr]


@pytest.mark.parametrize("patience", [None, 1])
def test_a_validation_without_numbers_is_an_error_whoever_else_monitors_it(
    tmp_path: Path, patience: int | None
) -> None:
    """Early stopping would end the training in silence."""
    with pytest.raises(NonFiniteError, match="val/loss is not finite in the validation after 11"):
        train(tmp_path, SpoiltValidation(), patience=patience)
    last = load_checkpoint(tmp_path / "checkpoints" / "last.ckpt")
    assert (last["global_step"], finite(last)) == (11, True)
    train(tmp_path, patience=patience, epochs=1)
    assert (tmp_path / "checkpoints" / "best.ckpt").exists()


@pytest.mark.parametrize("command", ["validate", "test", "predict"])
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
@pytest.mark.parametrize("name", ["backbone.1.weight", "backbone.2.running_var"])
def test_weights_that_are_no_numbers_are_refused_before_anything_is_evaluated(
    tmp_path: Path, command: str, value: float, name: str
) -> None:
    trainer = train(tmp_path, norm=True, epochs=1)
    file = tmp_path / "spoilt.ckpt"
    checkpoint = load_checkpoint(tmp_path / "checkpoints" / "last.ckpt")
    checkpoint["state_dict"][name].view(-1)[3] = value
    torch.save(checkpoint, file)
    with pytest.raises(NonFiniteError, match=rf"spoilt.ckpt: {name} is not finite; use another"):
        getattr(trainer, command)(
            trainer.lightning_module,
            datamodule=trainer.datamodule,  # type: ignore[attr-defined]
            ckpt_path=file,
            weights_only=True,
        )


def test_a_test_loss_that_is_no_number_is_an_error(tmp_path: Path) -> None:
    class SpoiltTest(Callback):
        def on_test_batch_start(
            self, trainer: Trainer, pl_module: LightningModule, batch: Any, *_: Any
        ) -> None:
            pl_module.backbone[1].bias.data.fill_(torch.nan)  # type: ignore[index, union-attr]

    trainer = train(tmp_path, epochs=1)
    trainer.callbacks.append(SpoiltTest())  # type: ignore[attr-defined]
    with pytest.raises(NonFiniteError, match="test/loss is not finite in the test"):
        trainer.test(trainer.lightning_module, datamodule=trainer.datamodule)  # type: ignore[attr-defined]


def test_a_mask_of_minus_infinity_is_no_fault() -> None:
    masked = nn.Linear(2, 2)
    masked.register_buffer("mask", torch.full((2,), -torch.inf))
    require_finite(masked, "a file")
    require_finite(nn.LazyLinear(3), "a file")
    masked.bias.data[0] = torch.nan
    with pytest.raises(NonFiniteError, match=r"a file: 0\.bias is not finite"):
        require_finite(nn.Sequential(masked), "a file")


def half() -> MixedPrecision:
    """What a GPU gets from `precision="16-mixed"`; Lightning takes bfloat16 for it on a CPU."""
    return MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu"))


class Overflowing(Callback):
    """Overflows gradients in 16-bit precision for so many steps in a row."""

    def __init__(self, steps: int) -> None:
        self.left = steps
        self.scales: list[float] = []

    def on_after_backward(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.scales.append(trainer.precision_plugin.scaler.get_scale())  # type: ignore[attr-defined]
        if self.left:
            next(pl_module.parameters()).grad.view(-1)[0] = torch.inf  # type: ignore[union-attr]
            self.left -= 1


@pytest.mark.filterwarnings(
    "ignore:Detected call of `lr_scheduler.step"
)  # the scaler skips the first step of the optimiser
def test_gradients_that_overflow_in_16_bits_are_skipped_steps_and_no_error(tmp_path: Path) -> None:
    overflowing = Overflowing(4)
    train(tmp_path, overflowing, plugins=[half()], epochs=1)
    assert overflowing.scales[:6] == [65536.0, 32768.0, 16384.0, 8192.0, 4096.0, 4096.0]
    assert finite(load_checkpoint(tmp_path / "checkpoints" / "last.ckpt"))


@pytest.mark.filterwarnings(
    "ignore:Detected call of `lr_scheduler.step"
)  # the scaler skips the first step of the optimiser
def test_gradients_that_overflow_for_many_steps_in_a_row_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(
        NonFiniteError, match="gradients of 6 steps in a row are not finite in step 5 "
    ):
        train(
            tmp_path, Overflowing(9), guard=NonFiniteGuard(overflows=6), plugins=[half()], epochs=1
        )


def test_a_loss_that_is_not_finite_is_an_error_in_16_bits_too(tmp_path: Path) -> None:
    with pytest.raises(NonFiniteError, match="the loss is not finite in step 5 "):
        train(tmp_path, Poison(5, torch.nan), plugins=[half()], epochs=1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_large_gradient_is_finite(dtype: torch.dtype) -> None:
    large = torch.full((3,), torch.finfo(dtype).max, dtype=dtype)
    assert _all_finite([large, torch.ones(2, dtype=torch.float32)])
    for value in (torch.inf, -torch.inf, torch.nan):
        broken = large.clone()
        broken[1] = value
        assert not _all_finite([torch.ones(2), broken])


@pytest.mark.parametrize(("split", "label"), [("train", 10), ("train", -1), ("val", 12)])
def test_a_label_that_is_no_class_is_refused_by_the_number_of_its_image(
    tmp_path: Path, split: Any, label: int
) -> None:
    class Mislabelled(Callback):
        def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
            data: Any = trainer.datamodule  # type: ignore[attr-defined]
            labels = data.splits[split].label.clone()
            labels[17] = label
            data.splits[split] = data.splits[split]._replace(label=labels)

    match = rf"image 17 of split '{split}' has a label that is no class; give labels from 0 to 9"
    with pytest.raises(ValueError, match=match):
        train(tmp_path, Mislabelled())
    assert len(record(tmp_path, "train")) == (
        11 if split == "val" else next(i for i, seen in enumerate(batches(tmp_path)) if 17 in seen)
    )


def batches(folder: Path) -> list[list[int]]:
    """Of the first epoch."""
    straight = folder / "straight"
    train(straight, epochs=1)
    return [line[7] for line in record(straight, "train")]


def test_each_label_is_looked_at_once(tmp_path: Path) -> None:
    class Counting(LabelCheck):
        looked: list[int]

        def labels(self, batch: Batch) -> tuple[Tensor, Tensor]:
            self.looked += batch.indices.tolist()
            return super().labels(batch)

    guard = Counting(num_classes=10)
    guard.looked = []
    train(tmp_path, guard)
    assert len(guard.looked) == 83 + 26


def test_one_class_alone_is_refused_before_the_first_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stn_lightning.datasets.EmbeddedDigits.class_names", ("zero",))
    with pytest.raises(ValueError, match="the data have only one class, zero; give two classes"):
        train(tmp_path, network=nn.Sequential(nn.Flatten(), nn.Linear(784, 1)))
    assert not (tmp_path / "record.jsonl").exists()


def test_a_backbone_with_another_number_of_classes_is_refused_before_the_first_step(
    tmp_path: Path,
) -> None:
    with pytest.raises(ValueError, match="the backbone has 7 classes, the data has 10"):
        train(tmp_path, network=nn.Sequential(nn.Flatten(), nn.Linear(784, 7)))
    assert not (tmp_path / "record.jsonl").exists()

import functools
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import Callback, LightningModule, Trainer
from torch import Tensor
from torch.nn import functional

from stn_lightning.backbones import MultiDigitCNN
from stn_lightning.batch import Batch
from stn_lightning.callbacks import LabelCheck
from stn_lightning.datamodules import SVHNDataModule
from stn_lightning.datasets import SVHN, svhn
from stn_lightning.tasks import DigitSequenceTask
from stn_lightning.tasks.digit_sequence import SequenceParts
from stn_lightning.tasks.metrics import is_misclassified
from tests.svhn_miniature import write_svhn


def task_of(**options: Any) -> DigitSequenceTask:
    adam = functools.partial(torch.optim.Adam, lr=2e-3)
    return DigitSequenceTask(MultiDigitCNN(0.1, dropout=0.0), **({"optimizer": adam} | options))


def some() -> tuple[Tensor, Tensor]:
    logits = torch.randn(50, 5, 11)
    label = torch.randint(0, 11, (50, 5))
    for i, row in enumerate(label):
        row[1 + i % 4 :] = 10
        row[: 1 + i % 4] %= 10
    logits.scatter_(2, label[:, :, None], 2.5)  # often right
    return logits, label


def batch_of(label: Tensor) -> Batch:
    """A batch of which only the labels matter."""
    n = len(label)
    return Batch(torch.zeros(n, 3, 64, 64), label, torch.arange(n), 0, 1.0, "train")


def trainer_of(**options: Any) -> Trainer:
    quiet = {
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    return Trainer(accelerator="cpu", devices=1, **(quiet | options))


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SVHNDataModule:
    monkeypatch.setattr(svhn, "VALIDATION", 8)
    write_svhn(tmp_path / "svhn", 40, 21)
    return SVHNDataModule(SVHN(extra=False, root=str(tmp_path / "svhn")), batch_size=16)


def test_the_loss_is_the_sum_of_the_digits_cross_entropies() -> None:
    logits, label = some()
    expected = sum(functional.cross_entropy(logits[:, i], label[:, i]) for i in range(5))
    torch.testing.assert_close(task_of().loss(logits, batch_of(label)), expected)


def test_label_smoothing_spreads_a_part_of_each_digits_label() -> None:
    logits, label = some()
    batch = batch_of(label)
    uniform = -logits.log_softmax(2).mean(2).sum(1).mean()
    expected = 0.9 * task_of().loss(logits, batch) + 0.1 * uniform
    torch.testing.assert_close(task_of(label_smoothing=0.1).loss(logits, batch), expected)


def test_metrics_take_a_batch_without_images() -> None:
    metrics = task_of().split_metrics()
    metrics.update(*some())
    before = metrics.compute()
    metrics.update(torch.zeros(0, 5, 11), torch.zeros(0, 5, dtype=torch.long))
    after = metrics.compute()
    assert after.pop("samples") == before.pop("samples") == 50
    torch.testing.assert_close(after, before)


def test_a_number_is_wrong_if_any_digit_is() -> None:
    logits, label = some()
    expected = torch.tensor(
        [
            any(int(a) != int(b) for a, b in zip(x.argmax(1), y, strict=True))
            for x, y in zip(logits, label, strict=True)
        ]
    )
    assert torch.equal(is_misclassified(logits, label), expected)
    assert 0 < expected.sum() < 50


def test_the_parts_of_the_error_agree_with_counting(module: SVHNDataModule) -> None:
    logits, label = some()
    metric = SequenceParts()
    for part in torch.arange(50).split(7):
        metric.update(logits[part], label[part])
    found, read = metric.compute(), logits.argmax(2)
    confusion = torch.zeros(11, 11, dtype=torch.long)
    for truth, guess in zip(label.flatten(), read.flatten(), strict=True):
        confusion[truth, guess] += 1
    assert torch.equal(found.pop("confusion"), confusion)
    for i in range(5):
        assert found.pop(f"error_at_{i + 1}").item() == pytest.approx(
            100 * (read != label)[:, i].double().mean().item()
        )
    lengths = (label != 10).sum(1)
    for n in range(1, 5):
        wrong = (read != label).any(1)[lengths == n]
        assert found.pop(f"error_of_length_{n}").item() == pytest.approx(
            100 * wrong.double().mean().item()
        )
    assert not found  # no number has five digits, so there is no such error


def test_a_miniature_in_the_original_format_is_prepared_learnt_tested_and_read(
    module: SVHNDataModule,
) -> None:
    task, trainer = (
        task_of(),
        trainer_of(max_epochs=30, callbacks=[LabelCheck()], limit_val_batches=1),
    )
    trainer.fit(task, module)
    assert trainer.callback_metrics["train/loss"] < 8  # 12 where it knows nothing
    (found,) = trainer.test(task, module, verbose=False)
    assert found["test/samples"] == 21
    batches: Any = trainer_of().predict(task, module)
    probabilities = torch.cat(batches)
    assert probabilities.shape == (21, 5, 11)
    label = module.splits["test"].label
    assert found["test/error"] == pytest.approx(
        100 * (probabilities.argmax(2) != label).any(1).double().mean().item(), rel=1e-5
    )
    assert found["test/error_at_1"] == pytest.approx(
        100 * (probabilities.argmax(2) != label)[:, 0].double().mean().item(), rel=1e-5
    )
    for row, (number, probability) in zip(
        probabilities, task.predictions(probabilities.log(), module.class_names), strict=True
    ):
        assert number == "".join(str(digit) for digit in row.argmax(1).tolist() if digit < 10)
        assert probability == pytest.approx(row.amax(1).prod().item(), abs=1e-4)
    assert task.confusion is not None
    assert task.confusion.sum() == 21 * 5


def test_a_label_beyond_the_classes_is_named(module: SVHNDataModule) -> None:
    module.prepare_data()
    module.setup("fit")
    module.splits["train"].label[3, 4] = 11
    with pytest.raises(
        ValueError, match="image 3 of split 'train' has a label that is no class; give labels"
    ):
        trainer_of(max_epochs=1, callbacks=[LabelCheck()], limit_val_batches=0).fit(
            task_of(), module
        )


def test_a_network_for_other_classes_is_refused(module: SVHNDataModule) -> None:
    task = DigitSequenceTask(
        MultiDigitCNN(0.1, num_classes=10), functools.partial(torch.optim.SGD, lr=0.1)
    )
    with pytest.raises(ValueError, match="the backbone has 10 classes, the data has 11"):
        trainer_of(max_epochs=1).fit(task, module)


def test_what_a_validation_logs_is_what_the_task_says_that_it_may_log(
    module: SVHNDataModule,
) -> None:
    task, trainer = task_of(), trainer_of()
    trainer.validate(task, module, verbose=False)
    assert (
        {"val/error", "val/error_at_5", "val/error_of_length_1"}
        <= set(trainer.callback_metrics)
        <= task.validation_metrics
    )


def test_a_network_of_another_number_of_digits_is_measured(module: SVHNDataModule) -> None:
    module.prepare_data()
    module.setup("test")
    sgd = functools.partial(torch.optim.SGD, lr=0.1)
    task = DigitSequenceTask(MultiDigitCNN(0.1, num_digits=3), sgd)
    data = module.splits["test"]
    module.splits["test"] = data._replace(label=data.label[:, :3])
    module.setup = lambda stage: None  # type: ignore[method-assign]  # noqa: ARG005
    (measured,) = trainer_of().test(task, module, verbose=False)
    assert {"test/error_at_1", "test/error_at_3"} <= set(measured)
    assert "test/error_at_4" not in measured


def test_each_validation_counts_from_zero(module: SVHNDataModule) -> None:
    counted = []

    class Watch(Callback):
        def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
            assert isinstance(pl_module, DigitSequenceTask)
            assert pl_module.confusion is not None
            counted.append(int(pl_module.confusion.sum()))

    options = {"max_epochs": 2, "num_sanity_val_steps": 0, "limit_train_batches": 1}
    trainer_of(callbacks=[Watch()], **options).fit(task_of(), module)
    assert counted == [5 * 8, 5 * 8]

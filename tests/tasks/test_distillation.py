"""Distillation: the loss is Hinton's, and the student learns what its teachers know."""

import functools
import math
from typing import Any

import pytest
import torch
from lightning import Trainer
from torch import Tensor, nn
from torch.nn import functional

from stn_lightning.backbones import CNN, FCN
from stn_lightning.batch import Batch
from stn_lightning.tasks import DistillationTask
from stn_lightning.transformers import Affine, FullyConnectedLocalisation, SpatialTransformer
from tests.tasks.test_classification import digits, task_of, trainer_of

SGD = functools.partial(torch.optim.SGD, lr=0.2, momentum=0.9)


def batch_of(n: int = 6) -> Batch:
    image, label = torch.rand(n, 1, 28, 28), torch.arange(n)
    return Batch(image, label, torch.arange(n), 0, 1.0, "train")


def teachers(n: int = 2) -> list[nn.Module]:
    """Sized, with dropout that an evaluation leaves out."""
    networks: list[nn.Module] = [nn.Sequential(CNN(4 + i), nn.Dropout(0.5)) for i in range(n)]
    for network in networks:
        network.train()(torch.rand(1, 1, 28, 28))
    return networks


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_the_loss_is_that_of_the_labels_and_of_the_mean_probabilities(temperature: float) -> None:
    two, batch = teachers(), batch_of()
    task = DistillationTask(FCN([8]), SGD, two, weight=0.7, temperature=temperature)
    logits = torch.randn(6, 10)
    expected = 0.3 * functional.cross_entropy(logits, batch.label).item()
    known = [teacher(batch.image).detach() / temperature for teacher in two]
    for i in range(6):
        target = [sum(each[i].softmax(0).tolist()[c] for each in known) / 2 for c in range(10)]
        student = (logits[i] / temperature).softmax(0).tolist()
        divergence = sum(p * math.log(p / q) for p, q in zip(target, student, strict=True))
        expected += 0.7 * temperature**2 * divergence / 6
    assert task.loss(logits, batch).item() == pytest.approx(expected, rel=1e-4)


class Oracle(nn.Module):
    """Knows that the brightest row of an image is its class."""

    def forward(self, image: Tensor) -> Tensor:
        return 4 * image[:, 0, :10].mean(2)


def test_a_student_learns_from_its_teachers_without_labels() -> None:
    task = DistillationTask(FCN([32]), SGD, [Oracle()], weight=1.0, temperature=1.0)
    trainer = trainer_of(max_epochs=20, limit_val_batches=0)
    trainer.fit(task, digits(200, batch_size=50))
    image = digits(200)
    image.setup("test")
    seen = image.transform_batch(
        Batch(
            image.splits["test"].image,
            image.splits["test"].label,
            torch.arange(200),
            0,
            1.0,
            "test",
        )
    ).image
    told, learnt = Oracle()(seen).softmax(1), task.eval()(seen).softmax(1)
    uniform = torch.full_like(told, 0.1)
    assert (learnt - told).abs().mean() < 0.3 * (uniform - told).abs().mean()


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed", "bf16-true"])
def test_teachers_are_no_part_of_the_student_and_stay_as_they_are(precision: Any) -> None:
    two = teachers()
    before = [{k: v.clone() for k, v in teacher.state_dict().items()} for teacher in two]
    transformer = SpatialTransformer(FullyConnectedLocalisation([8]), Affine())
    task = DistillationTask(FCN([8]), SGD, two, transformer, label_smoothing=0.1)
    trainer = trainer_of(precision=precision)
    trainer.fit(task, digits())
    plain = task_of(True, FCN([8]))
    plain.transformer = SpatialTransformer(FullyConnectedLocalisation([8]), Affine())
    plain(torch.rand(1, 1, 28, 28))
    assert set(task.state_dict()) == set(plain.state_dict())
    assert trainer.callback_metrics["train/loss"].isfinite()
    for teacher, state in zip(two, before, strict=True):
        assert not teacher.training
        for name, value in teacher.state_dict().items():
            torch.testing.assert_close(value.float(), state[name], rtol=0.01, atol=0.01)


@pytest.mark.parametrize(
    ("teacher", "message"),
    [
        (lambda: FCN([8], num_classes=7), "teacher 0 has 7 classes, the data has 10"),
        (lambda: nn.Linear(3, 10), r"teacher 0 does not take images of shape \(1, 28, 28\): mat1"),
    ],
)
def test_a_teacher_that_does_not_fit_is_refused_before_the_first_step(
    teacher: Any, message: str
) -> None:
    trainer: Trainer = trainer_of()
    with pytest.raises(ValueError, match=message):
        trainer.fit(DistillationTask(FCN([8]), SGD, [teacher()]), digits())
    assert trainer.global_step == 0


@pytest.mark.parametrize(
    "options", [{"teachers": []}, {"weight": 1.5}, {"weight": -0.1}, {"temperature": 0.0}]
)
def test_values_out_of_range_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="give one teacher or more, 0 <= weight <= 1"):
        DistillationTask(FCN([8]), SGD, **{"teachers": [FCN([8])], **options})

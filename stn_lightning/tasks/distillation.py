"""Distil several trained networks into one.

Reference:
    Hinton et al. 2015, "Distilling the Knowledge in a Neural Network".
"""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from stn_lightning.batch import Batch
from stn_lightning.datamodules.base import datamodule_of
from stn_lightning.shapes import ImagesND, Logits
from stn_lightning.tasks.classification import ClassificationTask, OptimizerCallable
from stn_lightning.transformers import Transformer


class DistillationTask(ClassificationTask):
    """Train on labels and on teachers' mean probabilities.

    The loss is (1 - weight) cross entropy(label) + weight T^2 KL(teachers || student), where T is
    the temperature by which all logits in the second term are divided. Teachers get the same
    distorted images as the student, in evaluation mode. They are not among the task's parameters
    and not in its checkpoints.

    Args:
        backbone: the student's, image(s) -> logits.
        optimizer: parameters -> optimiser.
        teachers: networks image -> logits, for the same classes.
        transformer: the student's; none when left out.
        weight: weight of the teachers' probabilities in the loss, 0 to 1.
        temperature: T; above 1, small probabilities of the teachers count more.
        options: further arguments of `ClassificationTask`.

    Raises:
        ValueError: there is no teacher, a value is out of range, or (before the first step) a
            teacher does not fit the data.

    Examples:
        >>> from functools import partial
        >>> from stn_lightning.backbones import CNN, FCN
        >>> sgd = partial(torch.optim.SGD, lr=0.1)
        >>> task = DistillationTask(FCN([16]), sgd, teachers=[CNN(8), CNN(16)])
        >>> task.teacher_probabilities(torch.rand(2, 1, 28, 28)).shape
        torch.Size([2, 10])
    """

    def __init__(
        self,
        backbone: nn.Module,
        optimizer: OptimizerCallable,
        teachers: Sequence[nn.Module],
        transformer: Transformer | None = None,
        weight: float = 0.9,
        temperature: float = 2.0,
        **options: Any,
    ) -> None:
        super().__init__(backbone, optimizer, transformer, **options)
        if not teachers or not 0 <= weight <= 1 or temperature <= 0:
            raise ValueError(
                f"{len(teachers)} teachers, weight {weight:g}, temperature {temperature:g}; "
                "give one teacher or more, 0 <= weight <= 1, temperature > 0"
            )
        # not a ModuleList, which would add their parameters to the task's
        self.teachers = tuple(teacher.eval() for teacher in teachers)
        self.weight = weight
        self.temperature = temperature

    def configure_model(self) -> None:
        super().configure_model()
        data = datamodule_of(self.trainer)
        image = torch.zeros(1, *data.image_shape, device=self.device)
        for i, teacher in enumerate(self.teachers):
            try:
                classes = self._logits(teacher, image).shape[-1]
            except (RuntimeError, ValueError) as error:
                reason = str(error).splitlines()[0]
                shape = tuple(data.image_shape)
                raise ValueError(
                    f"teacher {i} does not take images of shape {shape}: {reason}"
                ) from error
            if classes != len(data.class_names):
                raise ValueError(
                    f"teacher {i} has {classes} classes, the data has {len(data.class_names)}"
                )

    def loss(self, logits: Logits, batch: Batch) -> Float[Tensor, ""]:
        target = self.teacher_probabilities(batch.image)
        student = (logits.float() / self.temperature).log_softmax(-1)
        divergence = functional.kl_div(student, target, reduction="batchmean")
        soft = self.weight * self.temperature**2 * divergence
        return (1 - self.weight) * super().loss(logits, batch) + soft

    def teacher_probabilities(self, image: ImagesND) -> Logits:
        """Return the mean of the teachers' softmax(logits / T)."""
        logits = [self._logits(teacher, image) for teacher in self.teachers]
        return (torch.stack(logits) / self.temperature).softmax(-1).mean(0)

    @torch.no_grad()
    def _logits(self, teacher: nn.Module, image: Tensor) -> Tensor:
        image = image.to(self.dtype)
        logits: Tensor = teacher.to(image.device, image.dtype)(image)
        return logits.float()

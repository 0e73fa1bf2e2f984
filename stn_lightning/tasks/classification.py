"""Image classification, with or without a transformer in front."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from lightning import LightningModule
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR
from torchmetrics import MetricCollection

from stn_lightning.batch import Batch
from stn_lightning.datamodules.base import datamodule_of
from stn_lightning.runtime.guards import NonFiniteError
from stn_lightning.shapes import ImagesND, Logits
from stn_lightning.tasks.data_check import MADE_FOR, check_data, describe_data
from stn_lightning.tasks.equivariance import Equivariance
from stn_lightning.tasks.metrics import ErrorRate, MeanCrossEntropy, Samples, is_misclassified
from stn_lightning.tasks.parameter_groups import (
    lr_scale,
    parameter_groups,
    refuse_unknown_parts,
)
from stn_lightning.tasks.penalties import add_penalties, check_penalties
from stn_lightning.tasks.schedules import ConstantLR, Schedule
from stn_lightning.tasks.step_output import StepOutput
from stn_lightning.transformers import (
    Transformer,
    WarpRecord,
    record_warps,
)

OptimizerCallable = Callable[[Iterable[Any]], Optimizer]
MOVE_PART = 1000
"""Number of the random numbers for `equivariance`; the parts of an image have 0, 1, ..."""


class ClassificationTask(LightningModule):
    """Train `backbone(transformer(image))` by cross entropy.

    Args:
        backbone: image(s) -> logits.
        transformer: image -> image(s); none when left out.
        optimizer: parameters -> optimiser.
        schedule: schedule of the learning rate; constant when left out.
        localisation_lr_scale: factor of the learning rate for the parameters of all transformers;
            the paper's is 0.1 for SVHN.
        channels_last: whether to use the memory format channels_last, the fastest for convolutions.
        out_of_bounds_penalty: weight of the penalty for points out of bounds
            (`geometry.measures.out_of_bounds_penalty`) in the loss. With 1 a transformer returns
            that has left the image, where the sampler gives no gradient.
        overlap_penalty: weight of the penalty for overlapping crops of parallel transformers
            (`geometry.overlap.overlap_penalty`) in the loss.
        equivariance: penalty for crops of `transformer` that do not move with their images; none
            when left out.
        label_smoothing: part of each label that is spread over all classes, in training only.
        lr_scales: factors of the learning rate for parts of the task, by name: `transformer`,
            `backbone.conv1`, ... The longest name that fits a parameter counts. Parts with 0 are
            frozen, and so is their batch normalisation.
        decay_biases_and_norms: whether weight decay applies to biases and to the weights of
            normalisation layers, too, as in torch's optimisers.

    Examples:
        >>> from functools import partial
        >>> from stn_lightning.backbones import FCN
        >>> task = ClassificationTask(FCN([16]), partial(torch.optim.SGD, lr=0.1))
        >>> task(torch.rand(2, 1, 28, 28)).shape
        torch.Size([2, 10])
    """

    def __init__(
        self,
        backbone: nn.Module,
        optimizer: OptimizerCallable,
        transformer: Transformer | None = None,
        schedule: Schedule | None = None,
        localisation_lr_scale: float = 1.0,
        channels_last: bool = True,
        out_of_bounds_penalty: float = 0.0,
        overlap_penalty: float = 0.0,
        equivariance: Equivariance | None = None,
        label_smoothing: float = 0.0,
        decay_biases_and_norms: bool = True,
        lr_scales: Mapping[str, float] | None = None,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.transformer = transformer
        self.optimizer = optimizer
        self.schedule = schedule or ConstantLR()
        self.localisation_lr_scale = localisation_lr_scale
        self.channels_last = channels_last
        self.out_of_bounds_penalty = out_of_bounds_penalty
        self.overlap_penalty = overlap_penalty
        self.equivariance = equivariance
        self.label_smoothing = label_smoothing
        self.decay_biases_and_norms = decay_biases_and_norms
        self.lr_scales = dict(lr_scales or {})
        self.logits_shape: torch.Size | None = None
        self.metrics = self._metrics()

    def split_metrics(self) -> MetricCollection:
        """Return the metrics of a split."""
        # no groups: torchmetrics merges metrics whose first values are equal, for ever
        return MetricCollection(
            {"error": ErrorRate(), "loss": MeanCrossEntropy(), "samples": Samples()},
            compute_groups=False,
        )

    def _metrics(self) -> nn.ModuleDict:
        metrics = self.split_metrics()
        return nn.ModuleDict(
            {f"{split}_metrics": metrics.clone(f"{split}/") for split in ("val", "test")}
        )

    @property
    def validation_metrics(self) -> set[str]:
        """Names of metrics that validation may log."""
        metrics: Any = self.metrics["val_metrics"]
        return set(metrics.keys())

    def loss(self, logits: Logits, batch: Batch) -> Float[Tensor, ""]:
        """Return the batch's mean training loss, in nats."""
        return functional.cross_entropy(
            logits.float(), batch.label, label_smoothing=self.label_smoothing
        )

    @property
    def is_logged(self) -> bool:
        """True in the steps whose loss and error are logged.

        They are the steps that a logger writes, and the last of each epoch. Logging every step
        would make training one percent slower.
        """
        trainer, every = self.trainer, self.trainer.log_every_n_steps  # type: ignore[attr-defined]  # Lightning sets it
        done = trainer.global_step + 1
        return (
            trainer.is_last_batch or done == trainer.max_steps or (every > 0 and done % every == 0)
        )

    def forward(self, image: ImagesND) -> Logits:
        logits: Tensor = self.backbone(
            image if self.transformer is None else self.transformer(image)
        )
        return logits

    @classmethod
    def load_from_checkpoint(cls, checkpoint_path: Any, **_: Any) -> Any:  # type: ignore[override]  # Lightning's has more options
        """Raise an error, as a checkpoint holds only weights.

        Raises:
            ValueError: always; the message says what to call instead.
        """
        file = Path(checkpoint_path).absolute()
        raise ValueError(
            f"{checkpoint_path} holds only weights; use stn_lightning.load_run("
            f"{str(file.parents[1])!r}, checkpoint={file.name!r}).task"
        )

    def configure_model(self) -> None:
        """Size lazy layers, check the number of classes, freeze parts.

        Raises:
            ValueError: the data have a single class, backbone and data have different numbers of
                classes, `lr_scales` names a part that does not exist, or a penalty has no
                transformer whose crops it could compare.
        """
        data = datamodule_of(self.trainer)
        if len(data.class_names) == 1:
            raise ValueError(
                f"the data have only one class, {data.class_names[0]}; give two classes or more"
            )
        if self.logits_shape is None:
            self.logits_shape = self._sized(data.image_shape)
        if self.logits_shape[-1] != len(data.class_names):
            raise ValueError(
                f"the backbone has {self.logits_shape[-1]} classes, the data has "
                f"{len(data.class_names)}; leave the backbone's num_classes out, or give "
                f"--model.init_args.backbone.init_args.num_classes {len(data.class_names)}"
            )
        penalties = (self.out_of_bounds_penalty, self.overlap_penalty, self.equivariance)
        check_penalties(self, self.transformer, *penalties)
        refuse_unknown_parts(self, self.lr_scales)
        for name, parameter in self.named_parameters():
            if lr_scale(name, self.lr_scales) == 0:
                parameter.requires_grad = False
        if self.channels_last and len(data.image_shape) == 3:  # it is for images, not for volumes
            self.to(memory_format=torch.channels_last)

    @torch.no_grad()
    def _sized(self, image_shape: Sequence[int]) -> torch.Size:
        """Size lazy layers; return the shape of the logits."""
        # Lightning moves the parameters later: `self.device` is the GPU, they are not yet on it
        first = next(self.parameters(), None)
        device = self.device if first is None else first.device
        self.eval()
        logits = self(torch.zeros(1, *image_shape, device=device).to(self.dtype))
        self.train()
        return torch.Size(logits.shape[1:])

    def train(self, mode: bool = True) -> "ClassificationTask":
        super().train(mode)
        for name, module in self.named_modules():
            if self.lr_scales and lr_scale(name, self.lr_scales) == 0:
                module.training = False
        return self

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Save what the data are, for resuming and predicting."""
        data = datamodule_of(self.trainer)
        if data is not None:
            checkpoint[MADE_FOR] = describe_data(data)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Compare the checkpoint with the data.

        Raises:
            ValueError: the classes have other names, so that labels would mean other classes, or a
                training would go on with other images.
        """
        data, made_for = datamodule_of(self.trainer), checkpoint.get(MADE_FOR)
        if data is not None and made_for is not None:
            resumes = self.trainer.state.fn == TrainerFn.FITTING
            check_data(made_for, data, same_images=resumes)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        uses_warps = self.out_of_bounds_penalty or self.overlap_penalty or self.equivariance
        recording: AbstractContextManager[list[WarpRecord]] = (
            record_warps(self) if uses_warps else nullcontext([])
        )
        image = batch.image.to(self.dtype)
        with recording as records:
            logits = self(image)
        loss = self.loss(logits, batch)
        if self.is_logged:
            error = is_misclassified(logits.detach(), batch.label).float().mean() * 100
            self.log_dict(
                {"train/loss": loss.detach(), "train/error": error},
                batch_size=len(batch.label),
                prog_bar=True,
            )
        loss = add_penalties(loss, records, self.out_of_bounds_penalty, self.overlap_penalty)
        if self.equivariance and len(image):
            loss = loss + self._equivariance_penalty(image, records, batch)
        return loss * batch.share

    def _equivariance_penalty(
        self, image: Tensor, records: Sequence[WarpRecord], batch: Batch
    ) -> Tensor:
        assert self.equivariance is not None
        assert self.transformer is not None
        randomness = datamodule_of(self.trainer).randomness(batch, MOVE_PART)
        randomness.spread = 1.0  # of full size during a curriculum, too
        grids = next(each.grids for each in records if each.transformer is self.transformer)
        penalty = self.equivariance(self.transformer, image, grids, randomness)
        if self.is_logged:
            self.log("train/equivariance", penalty.detach() / self.equivariance.weight)
        return penalty

    def validation_step(self, batch: Batch, batch_idx: int) -> StepOutput:  # type: ignore[override]  # Lightning hands on anything
        return self.evaluation_step(batch)

    def test_step(self, batch: Batch, batch_idx: int) -> StepOutput:  # type: ignore[override]  # likewise
        return self.evaluation_step(batch)

    def evaluation_step(self, batch: Batch) -> StepOutput:
        """Compute logits; update and log the metrics of the split."""
        with record_warps(self) as records:
            logits = self(batch.image.to(self.dtype))
        metrics: Any = self.metrics[f"{batch.split}_metrics"]
        metrics.update(logits, batch.label)
        self.log_metrics(batch)
        return StepOutput(logits, records)

    def log_metrics(self, batch: Batch) -> None:
        """Log the metrics; Lightning computes them at the end."""
        self.log_dict(
            self.metrics[f"{batch.split}_metrics"],  # type: ignore[arg-type]
            batch_size=len(batch.label),
            prog_bar=True,
        )

    def predict_step(self, batch: Batch, batch_idx: int) -> Tensor:
        return probabilities(self(batch.image.to(self.dtype)))

    def predictions(self, logits: Logits, class_names: Sequence[str]) -> list[tuple[str, float]]:
        """Return the most probable classes with their probabilities.

        Raises:
            NonFiniteError: a probability is not a number.
        """
        values, classes = probabilities(logits).max(-1)
        return [(class_names[i], p) for i, p in zip(classes.tolist(), values.tolist(), strict=True)]

    def configure_optimizers(self) -> Any:
        if not isinstance(self.schedule, ConstantLR):
            self.require_length(
                f"the schedule {type(self.schedule).__name__}", "the schedule ConstantLR"
            )
        groups, scales = parameter_groups(
            self, self.lr_scales, self.localisation_lr_scale, self.decay_biases_and_norms
        )
        optimizer = self.optimizer(groups)
        for group, scale in zip(optimizer.param_groups, scales, strict=True):
            group["lr"] *= scale
        schedule = LambdaLR(optimizer, lambda step: self.schedule(self._progress(step)))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def require_length(self, setting: str, instead: str) -> None:
        """Refuse a setting that depends on the training's length.

        Raises:
            ValueError: neither epochs nor steps are limited.
        """
        if self.trainer.max_epochs == self.trainer.max_steps == -1:
            raise ValueError(
                f"{setting} depends on the length of the training; "
                f"give max_epochs or max_steps, or {instead}"
            )

    def _progress(self, step: int) -> float:
        """Return the part of the training done, 0 to 1."""
        # Lightning loses the position of a resumed loader if `estimated_stepping_batches` is read
        # before the first step (PyTorch Lightning's issue 20550)
        return min(step / self.trainer.estimated_stepping_batches, 1.0) if step else 0.0


def probabilities(logits: Logits) -> Logits:
    """Return softmax in float32.

    Raises:
        NonFiniteError: a probability is not a number.
    """
    values = logits.float().softmax(-1)
    wrong = ~values.isfinite().flatten(1).all(1)
    if wrong.any():
        raise NonFiniteError(
            f"the network's probabilities are not finite for {int(wrong.sum())} of {len(wrong)} "
            "images; check its weights and the images for NaN and infinity"
        )
    return values

"""Classification of pictures, with or without a transformer in front."""

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from jaxtyping import Bool, Float, Int64
from lightning import LightningModule
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR
from torchmetrics import MetricCollection

from stn_lightning.backbones import FeatureExtractor
from stn_lightning.batch import Batch
from stn_lightning.geometry.measures import out_of_bounds_penalty
from stn_lightning.geometry.overlap import overlap_penalty
from stn_lightning.tasks.metrics import ErrorRate, MeanCrossEntropy, Samples
from stn_lightning.tasks.schedules import ConstantLR, Schedule
from stn_lightning.tasks.step_output import StepOutput
from stn_lightning.transformers import Transformer, WarpRecord, record_warps

OptimizerCallable = Callable[[Iterable[Any]], Optimizer]
MADE_FOR = "made_for"
"""Where a checkpoint says the shape of an image and the names of the classes."""


class ClassificationTask(LightningModule):
    """`backbone(transformer(image))`, cross entropy.

    Args:
        backbone: image(s) -> logits.
        transformer: image -> image(s); none when left out.
        optimizer: parameters -> optimiser.
        schedule: factor of the learning rate over the training.
        localisation_lr_scale: learning rate of all transformers' parameters over that of the rest;
            SVHN's is a tenth in the paper.
        channels_last: whether weights lie in the memory format that convolutions are fastest in.
        out_of_bounds_penalty: weight in the loss of how far all transformers look beyond the border
            of what they are given (`out_of_bounds_penalty`). 1 brings one back that has left the
            image, where the sampler gives it no gradient.
        overlap_penalty: weight in the loss of what parallel transformers' crops share
            (`overlap_penalty`), so that they do not agree on one place.
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
        metrics = self.split_metrics()
        self.metrics = nn.ModuleDict(
            {f"{split}_metrics": metrics.clone(f"{split}/") for split in ("val", "test")}
        )

    def split_metrics(self) -> MetricCollection:
        """What is measured of logits and labels, over a whole split."""
        return MetricCollection(
            {"error": ErrorRate(), "loss": MeanCrossEntropy(), "samples": Samples()}
        )

    @property
    def validation_metrics(self) -> set[str]:
        """The names of what a validation may log."""
        metrics: Any = self.metrics["val_metrics"]
        return set(metrics.keys())

    def loss(
        self, logits: Float[Tensor, "batch *digits classes"], label: Int64[Tensor, "batch *digits"]
    ) -> Float[Tensor, ""]:
        """Mean over the batch, in nats."""
        return functional.cross_entropy(logits.float(), label)

    def misclassified(
        self, logits: Float[Tensor, "batch *digits classes"], label: Int64[Tensor, "batch *digits"]
    ) -> Bool[Tensor, " batch"]:
        """Which pictures are misread."""
        return logits.argmax(-1) != label

    @property
    def is_logged(self) -> bool:
        """Whether what this step logs is written, or stands at the end of its epoch; logging at
        every step takes one percent of it.
        """
        trainer, every = self.trainer, self.trainer.log_every_n_steps  # type: ignore[attr-defined]  # Lightning sets it
        done = trainer.global_step + 1
        return (
            trainer.is_last_batch or done == trainer.max_steps or (every > 0 and done % every == 0)
        )

    def forward(
        self, image: Float[Tensor, "batch channels *size"]
    ) -> Float[Tensor, "batch *digits classes"]:
        logits: Tensor = self.backbone(
            image if self.transformer is None else self.transformer(image)
        )
        return logits

    def configure_model(self) -> None:
        """Let lazily sized layers see one picture, and check that the backbone has as many classes
        as the data.
        """
        data: Any = self.trainer.datamodule  # type: ignore[attr-defined]  # Lightning sets it without declaring it
        self.eval()
        with torch.no_grad():
            logits = self(torch.zeros(1, *data.image_shape, device=self.device).to(self.dtype))
        self.train()
        if logits.shape[-1] != len(data.class_names):
            raise ValueError(
                f"the backbone tells {logits.shape[-1]} classes apart, the data has {len(data.class_names)}; make them agree"
            )
        if self.channels_last:
            self.to(memory_format=torch.channels_last)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Say what goes in and what comes out, so that the weights can be used where the data set
        is not.
        """
        data: Any = self.trainer.datamodule  # type: ignore[attr-defined]
        if data is not None:
            checkpoint[MADE_FOR] = {
                "image_shape": list(data.image_shape),
                "classes": list(data.class_names),
            }

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        penalised = self.out_of_bounds_penalty or self.overlap_penalty
        watched: AbstractContextManager[list[WarpRecord]] = (
            record_warps(self) if penalised else nullcontext([])
        )
        with watched as looks:
            logits = self(batch.image.to(self.dtype))
        loss = self.loss(logits, batch.label)
        if self.is_logged:
            error = self.misclassified(logits.detach(), batch.label).float().mean() * 100
            self.log_dict(
                {"train/loss": loss.detach(), "train/error": error},
                batch_size=len(batch.label),
                prog_bar=True,
            )
        if self.out_of_bounds_penalty and looks:
            beyond = torch.stack(
                [out_of_bounds_penalty(look.grids.flatten(0, 1)).mean() for look in looks]
            )
            loss = loss + self.out_of_bounds_penalty * beyond.sum()
        if self.overlap_penalty and looks:
            loss = (
                loss
                + self.overlap_penalty
                * torch.stack([overlap_penalty(look.grids).mean() for look in looks]).sum()
            )
        return loss * batch.share

    def validation_step(self, batch: Batch, batch_idx: int) -> StepOutput:  # type: ignore[override]  # Lightning hands on anything
        return self.evaluation_step(batch)

    def test_step(self, batch: Batch, batch_idx: int) -> StepOutput:  # type: ignore[override]  # likewise
        return self.evaluation_step(batch)

    def predict_step(self, batch: Batch, batch_idx: int) -> Tensor:
        probabilities: Tensor = self(batch.image.to(self.dtype)).float().softmax(-1)
        return probabilities

    def predictions(
        self, logits: Float[Tensor, "batch *digits classes"], classes: Sequence[str]
    ) -> list[tuple[str, float]]:
        """What each picture most probably shows, and how probable that is."""
        probabilities, best = logits.float().softmax(-1).max(-1)
        return [(classes[i], p) for i, p in zip(best.tolist(), probabilities.tolist(), strict=True)]

    def evaluation_step(self, batch: Batch) -> StepOutput:
        """Compute logits, add them to the metrics of their split, and log those."""
        with record_warps(self) as records:
            logits = self(batch.image.to(self.dtype))
        metrics: Any = self.metrics[f"{batch.split}_metrics"]
        metrics.update(logits, batch.label)
        self.log_metrics(batch)
        return StepOutput(logits, records)

    def log_metrics(self, batch: Batch) -> None:
        """Have Lightning compute and reset them at the split's end."""
        self.log_dict(
            self.metrics[f"{batch.split}_metrics"],  # type: ignore[arg-type]
            batch_size=len(batch.label),
            prog_bar=True,
        )

    def configure_optimizers(self) -> Any:
        groups = self._groups()
        optimizer = self.optimizer(
            [{"params": params, "name": part} for (part, _), params in groups.items()]
        )
        for group, (_, rate) in zip(optimizer.param_groups, groups, strict=True):
            group["lr"] *= rate
        if self.trainer.max_epochs == self.trainer.max_steps == -1 and not isinstance(
            self.schedule, ConstantLR
        ):
            raise ValueError(
                "the schedule needs to know how long the training is; give max_epochs or max_steps, or a Constant schedule"
            )
        schedule = LambdaLR(optimizer, lambda step: self.schedule(self._progress(step)))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def _groups(self) -> dict[tuple[str, float], list[nn.Parameter]]:
        """Parameters by the part that they belong to and the factor of their learning rate."""
        localising = {
            id(p)
            for module in self.modules()
            if isinstance(module, Transformer)
            for p in module.parameters()
        }
        rated = {
            id(p): rate
            for module in self.modules()
            if isinstance(module, FeatureExtractor)
            for p, rate in module.rated()
        }
        groups: dict[tuple[str, float], list[nn.Parameter]] = {
            ("backbone", 1.0): [],
            ("localisation", self.localisation_lr_scale): [],
        }
        for p in self.parameters():
            part, rate = (
                ("localisation", self.localisation_lr_scale)
                if id(p) in localising
                else ("backbone", 1.0)
            )
            groups.setdefault((part, rate * rated.get(id(p), 1.0)), []).append(p)
        return {of: params for of, params in groups.items() if params}

    def _progress(self, step: int) -> float:
        """How much of the training is done, from 0 to 1."""
        # Lightning forgets a resumed loader's position when it is asked for the training's length
        # before the first step (PL#20550)
        return min(step / self.trainer.estimated_stepping_batches, 1.0) if step else 0.0

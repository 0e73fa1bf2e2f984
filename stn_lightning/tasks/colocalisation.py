"""Find what images have in common, without labels.

The crops of two images are to be more alike than a crop and a random patch of its own image, by a
margin: the sum over pairs of max(0, |e(crop n) - e(crop m)|^2 - |e(crop n) - e(patch n)|^2 +
margin).

What the paper leaves open (?): e is the second convolution's and the classifier's activations, each
in units of its length on random patches, so that a margin means the same for any encoder. (Were the
length of each crop's own activations 1, a crop that cuts its digit would lose nothing.) With all
pairs from the first step on, crops soon agree on a piece of empty background and stay there; so
pairs come in gradually, and until then a crop seeks what is unlike its surroundings.

Reference:
    Jaderberg et al. 2015, appendix A.2.
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torchmetrics import MetricCollection

from stn_lightning.backbones import CNN
from stn_lightning.batch import Batch
from stn_lightning.geometry import affine, sampling
from stn_lightning.runtime.checkpoint_io import load_checkpoint
from stn_lightning.tasks.classification import ClassificationTask, OptimizerCallable
from stn_lightning.tasks.metrics import SampleMean, Samples
from stn_lightning.tasks.schedules import Schedule
from stn_lightning.tasks.step_output import StepOutput
from stn_lightning.transformers import Transformer, record_warps


class ColocalisationTask(ClassificationTask):
    """Train a transformer alone; the encoder stays as it is.

    `test/found` is the percentage of images whose crop and box overlap by more than half
    (intersection over union).

    Args:
        encoder: a trained classifier, whose activations are compared.
        weights: checkpoint of a run that trained the encoder as a classifier's backbone.
        optimizer: parameters -> optimiser.
        transformer: image -> crop.
        patch_scale: side of a random patch over the image's side (?).
        margin: between pairs and patches; the paper's is 1, of activations in no unit.
        pair_warmup: part of the training in which pairs come to their full weight.
        schedule: factor of the learning rate over the training.

    Raises:
        ValueError: before the first step, where the weights do not exist.

    Examples:
        >>> from functools import partial
        >>> from stn_lightning.transformers import SpatialTransformer, StridedLocalisation
        >>> from stn_lightning.transformers import Translation
        >>> crop = SpatialTransformer(StridedLocalisation(), Translation(1 / 3), (28, 28))
        >>> sgd = partial(torch.optim.SGD, lr=0.1)
        >>> task = ColocalisationTask(CNN(8), "runs/encoder/checkpoints/best.ckpt", sgd, crop)
        >>> task.transformer(torch.rand(2, 1, 84, 84)).shape
        torch.Size([2, 1, 28, 28])
    """

    def __init__(
        self,
        encoder: CNN,
        weights: str,
        optimizer: OptimizerCallable,
        transformer: Transformer,
        patch_scale: float = 1 / 3,
        margin: float = 4.0,
        pair_warmup: float = 0.5,
        schedule: Schedule | None = None,
    ) -> None:
        super().__init__(encoder, optimizer, transformer, schedule)
        self.weights = weights
        self.patch_scale = patch_scale
        self.margin = margin
        self.pair_warmup = pair_warmup

    def split_metrics(self) -> MetricCollection:
        return MetricCollection(
            {"found": FoundRate(), "loss": Mean(), "samples": Samples()}, compute_groups=False
        )

    def configure_model(self) -> None:
        super().configure_model()
        prefix = "backbone."
        trained = {
            key.removeprefix(prefix): value
            for key, value in _trained(self.weights).items()
            if key.startswith(prefix)
        }
        self.backbone.load_state_dict(trained)
        self.backbone.requires_grad_(False)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        done = self._progress(self.global_step)
        weight = min(1.0, done / self.pair_warmup) if self.pair_warmup else 1.0
        loss = self._losses(batch, weight).mean()
        if self.is_logged:
            self.log("train/loss", loss.detach(), batch_size=len(batch.label), prog_bar=True)
        return loss * batch.share

    def evaluation_step(self, batch: Batch) -> StepOutput:
        """Measure the crops against the same patches every time."""
        with record_warps(self) as records:
            losses = self._losses(batch, 1.0, torch.Generator().manual_seed(0))
        metrics: Any = self.metrics[f"{batch.split}_metrics"]
        metrics["found"].update(crop_box(records[-1].grids[:, 0]), batch.box)
        metrics["loss"].update(losses)
        metrics["samples"].update(losses[:, None], batch.label)
        self.log_metrics(batch)
        return StepOutput(None, records)

    def _losses(
        self, batch: Batch, weight: float, generator: torch.Generator | None = None
    ) -> Float[Tensor, " batch"]:
        """Return each image's mean loss over its pairs.

        Args:
            batch: images.
            weight: weight of the distances between crops.
            generator: generator of the random patches.
        """
        assert self.transformer is not None
        image = batch.image.to(self.dtype)
        crop, patch = self.encoded(self.transformer(image), self.patches(image, generator))
        pairs = (crop[:, None] - crop[None]).square().sum(2)  # (batch, batch)
        apart = (crop - patch).square().sum(1)
        hinge = (weight * pairs - apart[:, None] + self.margin).clamp(min=0)
        others = 1 - torch.eye(len(image), device=image.device)
        return (hinge * others).sum(1) / max(len(image) - 1, 1)

    def encoded(
        self,
        crop: Float[Tensor, "batch channels height width"],
        patch: Float[Tensor, "batch channels height width"],
    ) -> tuple[Float[Tensor, "batch features"], Float[Tensor, "batch features"]]:
        """Return e of crops and patches: their scaled deeper activations.

        Each layer is divided by the root mean square of its length on the patches.
        """
        assert isinstance(self.backbone, CNN)
        layers = [
            [deep.float().flatten(1) for deep in self.backbone.activations(image)[1:]]
            for image in (crop, patch)
        ]
        units = [deep.square().sum(1).mean().sqrt() for deep in layers[1]]
        ours, theirs = (
            torch.cat([deep / unit for deep, unit in zip(each, units, strict=True)], 1)
            for each in layers
        )
        return ours, theirs

    def patches(self, image: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Return random patches of the crops' size in pixels."""
        assert self.transformer is not None
        centre = (2 * torch.rand(len(image), 2, generator=generator).to(image.device) - 1) * (
            1 - self.patch_scale
        )
        size = self.transformer.size or tuple(image.shape[2:])
        grid = affine.grid(affine.from_translation(centre, self.patch_scale), size)  # type: ignore[arg-type]
        return sampling.bilinear(image, grid)


def _trained(path: str) -> dict[str, Tensor]:
    try:
        return load_checkpoint(path)["state_dict"]
    except FileNotFoundError as error:
        first = "make train CONFIG=configs/colocalisation/encoder.yaml"
        raise ValueError(
            f"weights {path} do not exist; train the encoder first: {first}"
        ) from error


def crop_box(grid: Float[Tensor, "batch height width 2"]) -> Float[Tensor, "batch 4"]:
    """Return left, top, right, bottom of a crop, pixels included."""
    first, last = grid[:, 0, 0], grid[:, -1, -1]
    half = (last - first) / (2 * (grid.shape[1] - 1))  # of a pixel
    return torch.cat([first - half, last + half], 1)


class FoundRate(SampleMean):
    """Samples whose crop overlaps the box by half, in percent.

    Overlap is intersection over union, and must be above a half.
    """

    higher_is_better = True

    def update(self, crop: Float[Tensor, "batch 4"], box: Float[Tensor, "batch 4"]) -> None:
        sides = torch.minimum(crop, box)[:, 2:] - torch.maximum(crop, box)[:, :2]
        common = sides.clamp(min=0).prod(1)
        areas = [(each[:, 2:] - each[:, :2]).prod(1) for each in (crop, box)]
        self.add(100 * (common > 0.5 * (areas[0] + areas[1] - common)))


class Mean(SampleMean):
    """A mean of values that are computed elsewhere."""

    higher_is_better = False

    def update(self, values: Float[Tensor, " batch"]) -> None:
        self.add(values)

"""Find what images have in common, without labels.

The loss asks that the crops of two images are more alike than a crop and a random patch of its own
image, by a margin: the sum over pairs of images n, m of
max(0, |e(crop n) - e(crop m)|^2 - |e(crop n) - e(patch n)|^2 + margin), where e is an encoder.

The paper does not say which activations e are (?). Here they are those of the encoder's second
convolution and its logits. Each of the two is divided by its root mean square length on the random
patches, so that the margin does not depend on the encoder. Dividing by the length on each crop
itself would not work: a crop with half of its digit would cost nothing. The distance between crops
gets its full weight gradually (`pair_warmup`). With full weight from the start all crops soon show
empty background, and stay there.

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
from stn_lightning.shapes import Features, Grids, Images
from stn_lightning.tasks.classification import ClassificationTask, OptimizerCallable
from stn_lightning.tasks.metrics import SampleMean, Samples
from stn_lightning.tasks.schedules import Schedule
from stn_lightning.tasks.step_output import StepOutput
from stn_lightning.transformers import Transformer, record_warps


class ColocalisationTask(ClassificationTask):
    """Train a transformer with a frozen encoder.

    `test/found` is the percentage of images whose crop and box have an intersection over union of
    more than a half.

    Args:
        encoder: a trained classifier, whose activations are compared.
        weights: checkpoint of a run that trained the encoder as its backbone.
        optimizer: parameters -> optimiser.
        transformer: image -> crop.
        patch_scale: side of a random patch / side of the image (?).
        margin: margin of the loss; the paper's is 1, with activations that are not scaled.
        pair_warmup: share of the training in which the weight of pairs rises from 0 to 1.
        schedule: schedule of the learning rate; constant when left out.

    Raises:
        ValueError: before the first step, if `weights` does not exist.

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
        # a rate of 0 freezes the encoder, its batch normalisation and dropout, too
        super().__init__(encoder, optimizer, transformer, schedule, lr_scales={"backbone": 0.0})
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

    def configure_optimizers(self) -> Any:
        if self.pair_warmup:
            self.require_length(f"pair_warmup {self.pair_warmup:g}", "pair_warmup: 0")
        return super().configure_optimizers()

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        done = self._progress(self.global_step)
        weight = min(1.0, done / self.pair_warmup) if self.pair_warmup else 1.0
        loss = self._losses(batch, weight).mean()
        if self.is_logged:
            self.log("train/loss", loss.detach(), batch_size=len(batch.label), prog_bar=True)
        return loss * batch.share

    def evaluation_step(self, batch: Batch) -> StepOutput:
        """Update and log the metrics, with the same random patches."""
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
        """Return each image's loss, the mean over its pairs.

        Args:
            batch: images.
            weight: weight of the distances between crops.
            generator: generator of the random patches; torch's default when left out.
        """
        assert self.transformer is not None
        image = batch.image.to(self.dtype)
        crop, patch = self.encoded(self.transformer(image), self.patches(image, generator))
        pairs = (crop[:, None] - crop[None]).square().sum(2)  # (batch, batch)
        apart = (crop - patch).square().sum(1)
        hinge = (weight * pairs - apart[:, None] + self.margin).clamp(min=0)
        others = 1 - torch.eye(len(image), device=image.device)
        return (hinge * others).sum(1) / max(len(image) - 1, 1)

    def encoded(self, crop: Images, patch: Images) -> tuple[Features, Features]:
        """Return e of crops and of patches."""
        assert isinstance(self.backbone, CNN)
        layers = [
            [deep.float().flatten(1) for deep in self.backbone.activations(image)[1:]]
            for image in (crop, patch)
        ]
        units = [deep.square().sum(1).mean().sqrt() for deep in layers[1]]
        of_crop, of_patch = (
            torch.cat([deep / unit for deep, unit in zip(each, units, strict=True)], 1)
            for each in layers
        )
        return of_crop, of_patch

    def patches(self, image: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Return a random patch of each image, crop-sized."""
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


def crop_box(grid: Grids) -> Float[Tensor, "batch 4"]:
    """Return left, top, right and bottom of an unrotated crop."""
    first, last = grid[:, 0, 0], grid[:, -1, -1]
    height, width = grid.shape[1:3]
    half = (last - first) / grid.new_tensor([2 * (width - 1), 2 * (height - 1)])  # half a pixel
    return torch.cat([first - half, last + half], 1)


class FoundRate(SampleMean):
    """Samples whose crop and box overlap, in percent.

    They count as overlapping if their intersection over union is above a half.
    """

    higher_is_better = True

    def update(self, crop: Float[Tensor, "batch 4"], box: Float[Tensor, "batch 4"]) -> None:
        sides = torch.minimum(crop, box)[:, 2:] - torch.maximum(crop, box)[:, :2]
        common = sides.clamp(min=0).prod(1)
        areas = [(each[:, 2:] - each[:, :2]).prod(1) for each in (crop, box)]
        self.add(100 * (common > 0.5 * (areas[0] + areas[1] - common)))


class Mean(SampleMean):
    """Mean of given values."""

    higher_is_better = False

    def update(self, values: Float[Tensor, " batch"]) -> None:
        self.add(values)

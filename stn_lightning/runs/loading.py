"""Load a trained network from the folder of its run."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
import yaml
from jaxtyping import Float
from jsonargparse import ArgumentParser
from lightning import LightningDataModule
from torch import Tensor, nn

from stn_lightning.runs.config_errors import one_line
from stn_lightning.runs.folder import RunFolder
from stn_lightning.runtime.checkpoint_io import load_checkpoint
from stn_lightning.tasks import ClassificationTask
from stn_lightning.tasks.classification import MADE_FOR
from stn_lightning.transformers import WarpRecord, record_warps

Loaded = TypeVar("Loaded", bound="TrainedNetwork")


class Network(nn.Module):
    """A task's transformer and backbone without the task: images to logits."""

    def __init__(self, transformer: nn.Module | None, backbone: nn.Module) -> None:
        super().__init__()
        self.transformer = transformer
        self.backbone = backbone

    def forward(
        self, image: Float[Tensor, "batch channels *size"]
    ) -> Float[Tensor, "batch *digits classes"]:
        warped = image if self.transformer is None else self.transformer(image)
        logits: Tensor = self.backbone(warped)
        return logits


@dataclass(frozen=True, repr=False)
class TrainedNetwork:
    """The network of a finished run, ready to answer, and what it was trained on."""

    name: str
    folder: Path
    """Folder of the run."""
    checkpoint: Path
    """File that the weights come from."""
    config: dict[str, Any]
    """The run's resolved configuration."""
    results: dict[str, Any]
    """What results.json holds; empty where the run was not tested."""
    task: ClassificationTask
    """In evaluation mode, on `device`."""
    data: Any
    """The run's data module, not set up: it has read no data."""
    image_shape: tuple[int, ...]
    """(channels, height, width), or (channels, depth, height, width)."""
    class_names: tuple[str, ...]
    device: torch.device
    dtype: torch.dtype

    @classmethod
    def load(
        cls: type[Loaded],
        name: str | Path,
        device: str | torch.device | None = None,
        dtype: torch.dtype | None = None,
        checkpoint: str | None = None,
    ) -> Loaded:
        """Load a trained network.

        Args:
            name: name of a run, or its folder.
            device: a GPU where there is one, else the CPU, when left out.
            dtype: of weights and images; float32 when left out. Sampling grids stay float32.
            checkpoint: a file in the run's folder `checkpoints`; best.ckpt when left out.

        Raises:
            ValueError: if there is no such run, or it cannot be read; one line says why.
        """
        run = RunFolder.found(name)
        path = _checkpoint(run, checkpoint)
        content = load_checkpoint(path)
        config = yaml.safe_load(run.config.read_text())
        task, data = _build(run, config)
        made_for = content.get(MADE_FOR) or _ask(data)
        image_shape, class_names = tuple(made_for["image_shape"]), tuple(made_for["classes"])
        with torch.no_grad():
            task.eval()(torch.zeros(1, *image_shape))  # lazy layers take their sizes
        _load_weights(task, content["state_dict"], path)
        device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        dtype = dtype or torch.float32
        results = run.path / "results.json"
        return cls(
            name=run.name,
            folder=run.path,
            checkpoint=path,
            config=config,
            results=json.loads(results.read_text()) if results.exists() else {},
            task=task.to(device, dtype),
            data=data,
            image_shape=image_shape,
            class_names=class_names,
            device=device,
            dtype=dtype,
        )

    @property
    def network(self) -> Network:
        """Transformer and backbone as one module: (batch, *image_shape) -> logits."""
        return Network(self.task.transformer, self.task.backbone).eval()

    def infer(self, image: Float[Tensor, "batch *shape"]) -> tuple[Tensor, WarpRecord | None]:
        """Return logits, and the warp of the transformer in front where there is one."""
        with torch.inference_mode(), record_warps(self.task) as records:
            logits = self.task(image.to(self.device, self.dtype))
        in_front = (each for each in records if each.transformer is self.task.transformer)
        return logits, next(in_front, None)

    def __repr__(self) -> str:
        names = ", ".join(self.class_names[:3]) + ", ..." * (len(self.class_names) > 3)
        return (
            f"{type(self).__name__}({self.checkpoint}: images {self.image_shape} -> "
            f"{len(self.class_names)} classes ({names}), {self.device}, {self.dtype})"
        )


def trained_network(run: str) -> nn.Module:
    """Return the network of a finished run, for YAML files.

    A teacher of `DistillationTask`, for example::

        teachers:
        - class_path: stn_lightning.runs.loading.trained_network
          init_args: {run: quickstart}

    Args:
        run: name of the run, or its folder.

    Raises:
        ValueError: if there is no such run, or it cannot be read; one line says why.
    """
    return TrainedNetwork.load(run, device="cpu").network


def _checkpoint(run: RunFolder, name: str | None) -> Path:
    path = run.checkpoints / (name or "best.ckpt")
    if path.exists():
        return path
    known = sorted(file.name for file in run.checkpoints.glob("*.ckpt"))
    if not known:
        run.best()  # says how to train
    raise ValueError(
        f"{path} is missing; to use another checkpoint give --checkpoint {known[-1]} "
        f"(there: {', '.join(known)})"
    )


def _load_weights(task: ClassificationTask, weights: dict[str, Tensor], path: Path) -> None:
    for name, value in weights.items():
        if value.is_floating_point() and not value.isfinite().all():
            raise ValueError(
                f"{path}: the weight {name} holds NaN or infinite values, so it answers nothing; "
                "give --checkpoint with another file"
            )
    try:
        task.load_state_dict(weights)
    except RuntimeError as problem:
        reason = str(problem).splitlines()[-1].strip()
        raise ValueError(f"{path} does not fit the run's config.yaml: {reason}") from problem


def _build(run: RunFolder, config: dict[str, Any]) -> tuple[ClassificationTask, Any]:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(ClassificationTask, "model", fail_untyped=False)
    parser.add_subclass_arguments(LightningDataModule, "data", fail_untyped=False)
    parts = {key: config[key] for key in ("model", "data")}
    try:
        built = parser.instantiate_classes(parser.parse_object(parts))
    except (Exception, SystemExit) as problem:  # of many kinds, all about the file
        raise ValueError(f"{run.config}: {one_line(str(problem))}") from problem
    return built.model, built.data


def _ask(data: Any) -> dict[str, Any]:
    """Ask the data themselves; checkpoints of 0.1 did not say what they were made for."""
    data.prepare_data()
    data.setup("test")
    return {"image_shape": data.image_shape, "classes": data.class_names}

"""Load a trained network from a run or the zoo."""

import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch
from jaxtyping import Float
from jsonargparse import ArgumentParser
from torch import Tensor, nn

from stn_lightning import zoo
from stn_lightning.datamodules.base import BaseDataModule
from stn_lightning.runs.config_errors import one_line
from stn_lightning.runs.folder import RunFolder
from stn_lightning.runs.initial_weights import require_finite
from stn_lightning.runs.record import RECORD, RunRecord
from stn_lightning.runtime.checkpoint_io import load_checkpoint
from stn_lightning.tasks import ClassificationTask
from stn_lightning.tasks.data_check import MADE_FOR
from stn_lightning.transformers import WarpRecord, compose_records, record_warps

logger = logging.getLogger(__name__)
Loaded = TypeVar("Loaded", bound="TrainedNetwork")


class Network(nn.Module):
    """A transformer and a backbone: image -> logits."""

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
    """The trained network of a run or of the zoo."""

    name: str
    folder: Path
    """folder of the run; for a network of the zoo, `zoo-NAME` in the working directory"""
    checkpoint: Path
    """file of the weights"""
    config: dict[str, Any]
    """resolved configuration of the run"""
    record: RunRecord | None
    """record of the run; None if it was not tested"""
    task: ClassificationTask
    """the task, in evaluation mode, on `device`"""
    data: BaseDataModule
    """the data module of the run, before `setup`"""
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
            name: name of a run, its folder, or `zoo:NAME`.
            device: device of the network; when left out a GPU, or the CPU if there is none.
            dtype: data type of weights and images, by default float32. Sampling grids are always
                float32.
            checkpoint: a file in the run's folder `checkpoints`; best.ckpt when left out.

        Raises:
            ValueError: there is no such run, or it cannot be read; one line says why.
        """
        in_zoo = str(name).startswith(zoo.PREFIX)
        stored = _from_zoo(str(name), checkpoint) if in_zoo else _from_run(name, checkpoint)
        task, data = _build(stored)
        made_for = stored.made_for
        if made_for is None:
            raise ValueError(f"{stored.file} does not say which images it is for; train it again")
        image_shape, class_names = tuple(made_for["image_shape"]), tuple(made_for["classes"])
        with torch.no_grad():
            task.eval()(torch.zeros(1, *image_shape))  # for lazy layers
        _load_weights(task, stored)
        device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        return cls(
            name=stored.name,
            folder=stored.folder,
            checkpoint=stored.file,
            config=stored.config,
            record=stored.record,
            task=task.to(device, dtype or torch.float32),
            data=data,
            image_shape=image_shape,
            class_names=class_names,
            device=device,
            dtype=dtype or torch.float32,
        )

    @property
    def network(self) -> Network:
        """Transformer and backbone as a module: (batch, *image_shape) -> logits."""
        return Network(self.task.transformer, self.task.backbone).eval()

    @property
    def flat_shape(self) -> tuple[int, int, int]:
        """(channels, height, width), with one channel or three.

        Raises:
            ValueError: the network takes volumes, or another number of channels.
        """
        if len(self.image_shape) != 3 or self.image_shape[0] not in (1, 3):
            raise ValueError(
                f"{self.folder} takes images of shape {self.image_shape}; files have images with 1 "
                "or 3 channels"
            )
        channels, height, width = self.image_shape
        return channels, height, width

    def infer(self, image: Float[Tensor, "batch *shape"]) -> tuple[Tensor, WarpRecord | None]:
        """Return logits, and the warp of the image (`compose_records`)."""
        image = image.to(self.device, self.dtype)
        with torch.inference_mode(), record_warps(self.task) as records:
            logits = self.task(image)
            return logits, compose_records(records, image)

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
        ValueError: there is no such run, or it cannot be read; one line says why.
    """
    return TrainedNetwork.load(run, device="cpu").network


class _Stored(NamedTuple):
    """Contents of a run or of a zoo network."""

    name: str
    folder: Path
    file: Path
    config: dict[str, Any]
    weights: dict[str, Tensor]
    made_for: dict[str, Any] | None
    record: RunRecord | None
    source: Path


def _from_run(name: str | Path, checkpoint: str | None) -> _Stored:
    run = RunFolder.found(name)
    file = _checkpoint(run, checkpoint)
    content = load_checkpoint(file)
    config = run.read_config()
    if "state_dict" not in content:
        raise ValueError(f"{file} holds no weights of a network; give another --checkpoint")
    weights, made_for = content["state_dict"], content.get(MADE_FOR)
    record = _read_record(run.path / RECORD)
    return _Stored(run.name, run.path, file, config, weights, made_for, record, run.config)


def _from_zoo(name: str, checkpoint: str | None) -> _Stored:
    if checkpoint is not None:
        raise ValueError(f"{name} has no other checkpoints; leave --checkpoint out")
    name = name.removeprefix(zoo.PREFIX)
    card = zoo.read_card(name)
    file, folder = zoo.weights_path(name), Path(f"zoo-{name}")
    made_for = {"image_shape": card.image_shape, "classes": card.class_names}
    record = RunRecord.from_json(json.dumps(card.record))
    weights = zoo.read_weights(name)
    source = file.with_suffix(".json")
    return _Stored(name, folder, file, record.settings, weights, made_for, record, source)


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


def _read_record(path: Path) -> RunRecord | None:
    """Read a run's record; None if missing or damaged."""
    try:
        return RunRecord.read(path) if path.exists() else None
    except (ValueError, OSError) as problem:
        logger.warning("%s; continuing without it", problem)
        return None


def _build(stored: _Stored) -> tuple[ClassificationTask, BaseDataModule]:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(ClassificationTask, "model", fail_untyped=False)
    parser.add_subclass_arguments(BaseDataModule, "data", fail_untyped=False)
    try:
        parts = {key: stored.config[key] for key in ("model", "data")}
        built = parser.instantiate_classes(parser.parse_object(parts))
    except (Exception, SystemExit) as problem:  # a wrong configuration can cause any error
        raise ValueError(f"{stored.source}: {one_line(str(problem))}") from problem
    return built.model, built.data


def _load_weights(task: ClassificationTask, stored: _Stored) -> None:
    require_finite(stored.weights, stored.file)
    try:
        task.load_state_dict(stored.weights)
    except RuntimeError as problem:
        reason = str(problem).splitlines()[-1].strip()
        raise ValueError(f"{stored.file} does not fit {stored.source}: {reason}") from problem

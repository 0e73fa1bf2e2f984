"""A run that is over, read from its folder: the network with its weights, and the data module that
it was trained on.
"""

from pathlib import Path
from typing import Any, NamedTuple

import torch
import yaml
from jsonargparse import ArgumentParser
from lightning import LightningDataModule
from torch import Tensor

from stn_lightning.runs.config_errors import one_line
from stn_lightning.runs.folder import RunFolder
from stn_lightning.runtime.checkpoint_io import load_checkpoint
from stn_lightning.tasks import ClassificationTask
from stn_lightning.tasks.classification import MADE_FOR
from stn_lightning.transformers import WarpRecord, record_warps


class Run(NamedTuple):
    """What is left of a run."""

    run: RunFolder
    task: ClassificationTask
    """Evaluating, with its best weights, on the device."""
    data: Any
    """Not set up: it has read nothing yet, where the checkpoint says what the network was made for.
    """
    image_shape: tuple[int, ...]
    class_names: tuple[str, ...]
    config: dict[str, Any]
    device: torch.device

    def see(self, image: Tensor) -> tuple[Tensor, WarpRecord | None]:
        """Logits, and where the transformer in front of the backbone looked; None where there is
        none.
        """
        with torch.inference_mode(), record_warps(self.task) as looks:
            logits = self.task(image.to(self.device))
        return logits, next(
            (look for look in looks if look.transformer is self.task.transformer), None
        )


def load_run(name: str | Path) -> Run:
    """Read a run.

    Args:
        name: of the run, or its folder.

    Raises:
        ValueError: where there is no such run, or it cannot be read; one line says why.
    """
    run = RunFolder.found(name)
    checkpoint = load_checkpoint(run.best())
    config = yaml.safe_load(run.config.read_text())
    task, data = _built(run, config)
    made_for = checkpoint.get(MADE_FOR) or _asked(data)
    image_shape, classes = tuple(made_for["image_shape"]), tuple(made_for["classes"])
    with torch.no_grad():
        task.eval()(torch.zeros(1, *image_shape))  # lazy layers take their sizes
    try:
        task.load_state_dict(checkpoint["state_dict"])
    except RuntimeError as problem:
        raise ValueError(
            f"{run.best()} does not fit {run.config}: {str(problem).splitlines()[-1].strip()}"
        ) from problem
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return Run(run, task.to(device), data, image_shape, classes, config, device)


def _built(run: RunFolder, config: dict[str, Any]) -> tuple[ClassificationTask, Any]:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(ClassificationTask, "model", fail_untyped=False)
    parser.add_subclass_arguments(LightningDataModule, "data", fail_untyped=False)
    try:
        built = parser.instantiate_classes(
            parser.parse_object({key: config[key] for key in ("model", "data")})
        )
    except (Exception, SystemExit) as problem:  # of many kinds, all about the file
        raise ValueError(f"{run.config}: {one_line(str(problem))}") from problem
    return built.model, built.data


def _asked(data: Any) -> dict[str, Any]:
    """What the data set itself says; checkpoints of before version 0.2 do not."""
    data.prepare_data()
    data.setup("test")
    return {"image_shape": data.image_shape, "classes": data.class_names}

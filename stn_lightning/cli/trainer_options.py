"""Refuse options of Lightning's Trainer that contradict a run."""

from typing import Any

import torch
from jsonargparse import Namespace
from lightning.pytorch.callbacks import BatchSizeFinder, LearningRateFinder

REFUSED = {
    "default_root_dir": "a run lies in runs/NAME of the working directory; choose NAME by --name",
    "use_distributed_sampler": "the data modules divide the images among the processes",
    "barebones": "a run writes checkpoints and a record; for speed alone use "
    "--trainer.logger false --trainer.enable_checkpointing false",
    "model_registry": "a run keeps its checkpoints in its folder; stn export writes the network",
}
"""Options that must keep their defaults, and why."""

FINDERS = {
    BatchSizeFinder: "stn tune --batch-size",
    LearningRateFinder: "stn tune",
}
"""Callbacks that train with other settings than config.yaml, and what to use instead."""


def refuse_options(trainer: Namespace) -> None:
    """Check the options of the Trainer.

    Args:
        trainer: its options, with callbacks and plugins built.

    Raises:
        ValueError: names the first option that is refused.
    """
    for option, reason in REFUSED.items():
        if trainer[option]:
            raise ValueError(f"--trainer.{option} {trainer[option]}: leave it out; {reason}")
    name = trainer["strategy"] if isinstance(trainer["strategy"], str) else ""
    if any(word in name for word in ("spawn", "fork", "notebook")):
        raise ValueError(
            f"--trainer.strategy {name}: forked or spawned processes cannot be resumed or stopped "
            "together; give ddp"
        )
    for callback in listed(trainer["callbacks"]):
        for kind, instead in FINDERS.items():
            if isinstance(callback, kind):
                raise ValueError(
                    f"{kind.__name__} trains with other settings than config.yaml has; "
                    f"leave it out, and see what {instead} suggests"
                )


def several_processes(trainer: Namespace) -> bool:
    """Return whether the options ask for several processes."""
    devices = trainer["devices"]
    count = str(len(devices) if isinstance(devices, list) else devices)
    if count in ("auto", "-1"):
        count = "1" if trainer["accelerator"] == "cpu" else str(torch.cuda.device_count())
    return trainer["num_nodes"] > 1 or int(count) > 1


def listed(given: Any) -> list[Any]:
    """Turn None, one value or a list into a list."""
    return given if isinstance(given, list) else [] if given is None else [given]

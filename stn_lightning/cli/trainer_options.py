"""Check options of Lightning's Trainer that contradict a run."""

import os
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from jsonargparse import Namespace
from lightning import Trainer
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.pytorch.accelerators import CUDAAccelerator
from lightning.pytorch.callbacks import (
    BatchSizeFinder,
    Callback,
    LearningRateFinder,
    ModelCheckpoint,
    ModelPruning,
    OnExceptionCheckpoint,
    SpikeDetection,
    StochasticWeightAveraging,
)
from lightning.pytorch.plugins import CheckpointIO
from lightning.pytorch.utilities import rank_zero_only

REFUSED = {
    "default_root_dir": "the folder of a run is runs/NAME; choose NAME by --name",
    "use_distributed_sampler": "the data modules divide the images among the processes",
    "barebones": "a run writes checkpoints and a record; for speed alone use "
    "--trainer.logger false --trainer.enable_checkpointing false",
    "model_registry": "a run keeps its checkpoints in its folder; stn export writes the network",
    "limit_predict_batches": "stn predict takes all images that it is given",
}
"""Options that must keep their defaults, and why."""

CALLBACKS: dict[type[Any], str] = {
    BatchSizeFinder: "config.yaml would have another batch size; see what stn tune --batch-size "
    "suggests",
    LearningRateFinder: "config.yaml would have another learning rate; see what stn tune suggests",
    StochasticWeightAveraging: "it averages after the last checkpoint, so nothing would test its "
    "weights; give EMAWeightAveraging",
    ModelPruning: "its masks are in no checkpoint, so the run could not be resumed; prune what "
    "stn export writes",
    OnExceptionCheckpoint: "it would start from its own file; last.ckpt is saved in any case",
    SpikeDetection: "Lightning cannot load what it saves of it",
}
"""Callbacks that contradict a run, and why."""

COPIES = ("spawn", "fork", "notebook")
"""Parts of the names of strategies that copy this process."""

SHARDED = ("fsdp", "deepspeed", "model_parallel", "modelparallel", "xla")
"""Parts of the names of strategies in which a process holds a part of the parameters, or that have
checkpoints of their own.
"""


def refuse_options(trainer: Namespace, checkpoints: Path) -> None:
    """Check the options of the Trainer.

    Args:
        trainer: options of the Trainer, with callbacks and plugins built.
        checkpoints: folder of the run's checkpoints.

    Raises:
        ValueError: names the first option that contradicts a run.
    """
    for problem in _problems(trainer):
        raise ValueError(problem)
    for callback in listed(trainer["callbacks"]):
        for problem in _problems_of(callback, checkpoints):
            raise ValueError(problem)


def _problems(trainer: Namespace) -> Iterator[str]:
    for option, reason in REFUSED.items():
        if trainer[option]:
            yield f"--trainer.{option} {trainer[option]}: leave it out; {reason}"
    name = trainer["strategy"] if isinstance(trainer["strategy"], str) else ""
    if any(word in name for word in COPIES):
        yield (
            f"--trainer.strategy {name}: forked or spawned processes cannot be resumed or stopped "
            "together; give ddp"
        )
    kind = name if name else type(trainer["strategy"]).__name__
    if any(word in kind.lower() for word in SHARDED):
        yield f"--trainer.strategy {kind}: a run needs whole parameters and checkpoints; give ddp"
    by_clock = isinstance(trainer["val_check_interval"], str | timedelta | dict)
    if by_clock and several_processes(trainer):
        yield (
            f"--trainer.val_check_interval {trainer['val_check_interval']}: the clocks of several "
            "processes differ; give a number of batches"
        )
    if trainer["accumulate_grad_batches"] < 1:
        yield (
            f"--trainer.accumulate_grad_batches {trainer['accumulate_grad_batches']}: give 1 or "
            "more"
        )
    if trainer["gradient_clip_algorithm"] is not None and trainer["gradient_clip_val"] is None:
        yield (
            f"--trainer.gradient_clip_algorithm {trainer['gradient_clip_algorithm']}: nothing is "
            "clipped without --trainer.gradient_clip_val"
        )
    if (trainer["gradient_clip_val"] or 0) < 0:
        yield f"--trainer.gradient_clip_val {trainer['gradient_clip_val']}: give 0 or more"
    least, most = trainer["min_epochs"] or 0, trainer["max_epochs"]
    if most is not None and 0 <= most < least:
        yield f"--trainer.min_epochs {least} is more than --trainer.max_epochs {most}"
    if any(isinstance(plugin, CheckpointIO) for plugin in listed(trainer["plugins"])):
        yield "--trainer.plugins: leave out the CheckpointIO; a run's own writes files atomically"


def _problems_of(callback: Callback, checkpoints: Path) -> Iterator[str]:
    for kind, reason in CALLBACKS.items():
        if isinstance(callback, kind):
            yield f"{type(callback).__name__}: leave it out; {reason}"
    if isinstance(callback, ModelCheckpoint):
        folder = callback.dirpath
        if folder is None or Path(folder).resolve() == checkpoints.resolve():
            yield (
                f"ModelCheckpoint: give it a dirpath of its own; {checkpoints} holds what the run "
                "resumes from"
            )


def require_launcher(trainer: Trainer) -> None:
    """Check that something starts the other processes.

    Raises:
        ValueError: nothing starts the other nodes, so that this process would wait for ever, or
            the environment says that there are other processes, and there are none.
    """
    rank = rank_zero_only.rank  # type: ignore[attr-defined]  # Lightning reads it from the environment
    if trainer.world_size == 1 and rank:
        rank_zero_only.rank = 0  # type: ignore[attr-defined]  # so that the message is printed
        raise ValueError(
            f"RANK, LOCAL_RANK or SLURM_PROCID says that this is process {rank}, "
            "but the training has one process, 0; unset the variable, or start all processes by "
            "torchrun or srun"
        )
    environment = getattr(trainer.strategy, "cluster_environment", None)
    started_by_hand = "MASTER_ADDR" in os.environ
    alone = isinstance(environment, LightningEnvironment) and not started_by_hand
    if trainer.num_nodes > 1 and alone:
        raise ValueError(
            f"--trainer.num_nodes {trainer.num_nodes}: nothing starts the others; use stn submit, "
            "or torchrun, or set MASTER_ADDR and NODE_RANK on each node"
        )


def several_processes(trainer: Namespace) -> bool:
    """Return whether the options ask for several processes.

    Raises:
        ValueError: `devices` is no number, no list and not "auto".
    """
    devices = trainer["devices"]
    if isinstance(devices, str) and "," in devices:  # as Lightning reads "0,1"
        devices = [part for part in devices.split(",") if part.strip()]
    count = str(len(devices) if isinstance(devices, list) else devices)
    if count in ("auto", "-1"):
        count = "1" if trainer["accelerator"] == "cpu" else str(torch.cuda.device_count())
    if not count.isdigit():
        raise ValueError(f"--trainer.devices {devices}: give a number, a list or auto")
    return trainer["num_nodes"] > 1 or int(count) > 1


def listed(given: Any) -> list[Any]:
    """Convert None, a value or a list to a list."""
    return given if isinstance(given, list) else [] if given is None else [given]


def first_gpu(trainer: Namespace) -> int:
    """Return the number of the first GPU that `devices` chooses."""
    devices = trainer["devices"]
    chosen = CUDAAccelerator.parse_devices(-1 if devices == "auto" else devices)
    return chosen[0] if chosen else 0

"""What a run came to, with everything needed to know where the number is from."""

import json
import platform
from pathlib import Path
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from torch.utils.tensorboard.summary import hparams

from stn_lightning.callbacks.throughput import ThroughputLogger
from stn_lightning.runtime.checkpointing import AtomicCheckpoint
from stn_lightning.runtime.provenance import commit, versions


class RecordWriter(Callback):
    """After a test, writes `results.json` into the trainer's default_root_dir, and hyper-parameters
    with the final metric to TensorBoard.

    Args:
        name: of the run.
        configs: the configuration files it was started with.
        seed: of the run.
        hyper_parameters: flat, for TensorBoard's table of runs.
    """

    def __init__(
        self, name: str, configs: list[str], seed: int, hyper_parameters: dict[str, Any]
    ) -> None:
        self.name = name
        self.configs = configs
        self.seed = seed
        self.hyper_parameters = hyper_parameters
        self.training: dict[str, Any] = {}

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Keep the totals of the training: testing the best checkpoint brings back those of its
        epoch.
        """
        throughput = next(
            callback
            for callback in trainer.callbacks  # type: ignore[attr-defined]
            if isinstance(callback, ThroughputLogger)
        )
        self.training = {
            "epochs": trainer.current_epoch,
            "samples_seen": throughput.samples,
            "train_seconds": round(throughput.seconds, 1),
            "images_per_second": round(throughput.images_per_second, 1),
            **_best(trainer),
        }

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not trainer.is_global_zero:
            return
        folder = Path(trainer.default_root_dir)  # trainer.log_dir waits for the other processes
        metrics = {
            key: round(float(value), 4)
            for key, value in trainer.callback_metrics.items()
            if key.startswith("test/")
        }
        results = {
            "name": self.name,
            "configs": self.configs,
            "seed": self.seed,
            "commit": commit(),
            "versions": versions(),
            "device": device_name(pl_module.device),
            "devices": trainer.world_size,
            "precision": str(trainer.precision),
            "parameters": sum(p.numel() for p in pl_module.parameters()),
            **self._training_so_far(folder),
            "samples_tested": int(metrics.pop("test/samples", 0)),
            "metrics": metrics,
        }
        (folder / "results.json").write_text(json.dumps(results, indent=2) + "\n")
        if isinstance(trainer.logger, TensorBoardLogger):
            final = {f"final/{key}": value for key, value in metrics.items()}
            # without the first of these TensorBoard asks all runs what they have, and shows first
            # what differs
            _, start, end = hparams(self.hyper_parameters, final)
            for summary in (start, end):
                trainer.logger.experiment.file_writer.add_summary(summary)
            trainer.logger.log_metrics(final, 0)

    def _training_so_far(self, folder: Path) -> dict[str, Any]:
        """From this process's training, else from the results that an earlier one wrote."""
        keys = (
            "epochs",
            "samples_seen",
            "train_seconds",
            "images_per_second",
            "monitor",
            "best_validation",
        )
        if not self.training and (folder / "results.json").exists():
            earlier = json.loads((folder / "results.json").read_text())
            return {key: earlier.get(key) for key in keys}
        return {key: self.training.get(key) for key in keys}


def _best(trainer: Trainer) -> dict[str, Any]:
    """The metric by which the checkpoint that is tested was chosen, and its best value; nothing
    where none was kept.
    """
    kept = (
        callback
        for callback in trainer.callbacks  # type: ignore[attr-defined]
        if isinstance(callback, AtomicCheckpoint) and callback.ranking
    )
    return next(
        (
            {"monitor": each.monitor, "best_validation": round(each.ranking[0][0], 6)}
            for each in kept
        ),
        {},
    )


def device_name(device: torch.device) -> str:
    """The GPU's name, or the processor's."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.machine()
    models = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return f"{models[0]}, {torch.get_num_threads()} threads" if models else platform.machine()

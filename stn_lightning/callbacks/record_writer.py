"""Write a run's record after its test."""

import contextlib
import platform
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from torch.utils.tensorboard.summary import hparams

from stn_lightning.callbacks.throughput import ThroughputLogger
from stn_lightning.runs.folder import RunFolder, data_difference
from stn_lightning.runs.record import RECORD, RunRecord
from stn_lightning.runtime.checkpointing import BEST, AtomicCheckpoint
from stn_lightning.runtime.provenance import commit, versions

TRAINING = (
    "configs",
    "device",
    "devices",
    "epochs",
    "samples_seen",
    "train_seconds",
    "images_per_second",
    "monitor",
    "best_validation",
    "lengths",
)
"""Fields of the record that are known after a training. A later test copies them from the earlier
record.
"""


class RecordWriter(Callback):
    """Write `results.json` into the trainer's default_root_dir after a test.

    Hyper-parameters and final metrics are also written to TensorBoard.

    Args:
        name: name of the run.
        configs: configuration files that it was started with.
        seed: seed of the run.
        settings: its resolved configuration.
    """

    def __init__(self, name: str, configs: list[str], seed: int, settings: dict[str, Any]) -> None:
        self.name = name
        self.configs = configs
        self.seed = seed
        self.settings = settings
        self.lengths: list[str] = []
        self.training: dict[str, Any] = {}

    def state_dict(self) -> dict[str, Any]:
        return {"lengths": self.lengths}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.lengths = list(state_dict["lengths"])

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if (length := training_length(trainer.max_epochs, trainer.max_steps)) not in self.lengths:
            self.lengths.append(length)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Store the totals before a test loads a checkpoint."""
        throughput = next(
            (each for each in trainer.callbacks if isinstance(each, ThroughputLogger)),  # type: ignore[attr-defined]
            None,
        )
        if throughput is None:
            raise ValueError("RecordWriter needs ThroughputLogger; add it to the callbacks")
        self.training = {
            "epochs": trainer.current_epoch,
            "samples_seen": throughput.samples,
            "train_seconds": round(throughput.seconds, 1),
            "images_per_second": round(throughput.images_per_second, 1),
            "lengths": self.lengths if len(self.lengths) > 1 else [],
            **_best(trainer),
        }

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not trainer.is_global_zero:
            return
        folder = Path(trainer.default_root_dir)  # trainer.log_dir waits for all processes
        if (reason := self.mismatch(trainer)) is not None:
            print(f"{folder / RECORD} is not changed: {reason}", flush=True)
            return
        file = folder / RECORD
        metrics = {
            key: round(float(value), 4)
            for key, value in trainer.callback_metrics.items()
            if key.startswith("test/")
        }
        training = self.training or _earlier(file, self.settings)
        now = {
            "configs": self.configs,
            "device": device_name(pl_module.device),
            "devices": trainer.world_size,
        }
        if trainer.ckpt_path and Path(trainer.ckpt_path).name != BEST:
            training = {**training, "best_validation": None}
        record = RunRecord(
            name=self.name,
            seed=self.seed,
            commit=commit(),
            versions=versions(),
            precision=str(trainer.precision),
            parameters=sum(p.numel() for p in pl_module.parameters()),
            **{**now, **training},
            samples_tested=int(metrics.pop("test/samples", 0)),
            metrics=metrics,
            date=datetime.now(UTC).date().isoformat(),
            settings=self.settings,
            checkpoint=Path(trainer.ckpt_path).name if trainer.ckpt_path else None,
            initialised_from=self.settings.get("init_weights"),
        )
        record.write(file)
        if isinstance(trainer.logger, TensorBoardLogger):
            final = {f"final/{key}": value for key, value in metrics.items()}
            # not the first of the three summaries: without it TensorBoard compares all runs, and
            # lists first the hyper-parameters that differ
            _, start, end = hparams(_hyper_parameters(self.settings), final)
            for summary in (start, end):
                trainer.logger.experiment.file_writer.add_summary(summary)
            trainer.logger.log_metrics(final, 0)

    def mismatch(self, trainer: Trainer) -> str | None:
        """Return why a test is not of this run."""
        folder, checkpoint = Path(trainer.default_root_dir), trainer.ckpt_path
        run = RunFolder(folder.name, folder.parent)
        if checkpoint and not run.contains(Path(checkpoint)):
            return f"{checkpoint} is none of this run's checkpoints"
        if (change := data_difference(run.read_config(), self.settings)) is not None:
            return f"{change.key} is {change.now}, and {change.before} in {run.config}"
        return None


def training_length(max_epochs: int | None, max_steps: int) -> str:
    """Return the length of a training as text."""
    if max_steps is not None and max_steps >= 0:
        return f"{max_steps} steps"
    return "no end" if max_epochs in (None, -1) else f"{max_epochs} epochs"


def _earlier(file: Path, settings: dict[str, Any]) -> dict[str, Any]:
    """Return the fields of the training in an earlier record.

    They are empty if there is no such record, or the training has become longer since.
    """
    with contextlib.suppress(ValueError, OSError):
        record = RunRecord.read(file)
        if _length(record.settings) == _length(settings):
            return {name: getattr(record, name) for name in TRAINING}
    return {}


def _length(settings: dict[str, Any]) -> list[Any]:
    trainer = settings.get("trainer", {})
    return [trainer.get(name) for name in ("max_epochs", "max_steps")]


def _hyper_parameters(settings: dict[str, Any]) -> dict[str, Any]:
    """Return settings with short dotted names, for TensorBoard."""
    flat: dict[str, Any] = {}

    def walk(prefix: str, value: Any) -> None:
        if isinstance(value, dict):
            for key, inner in value.items():
                if key == "class_path":
                    flat[prefix] = inner.rsplit(".", 1)[-1]
                else:
                    walk(prefix if key == "init_args" else f"{prefix}.{key}".strip("."), inner)
        elif value is not None:
            flat[prefix] = value if isinstance(value, int | float | str | bool) else str(value)

    for key in ("seed_everything", "model", "data"):
        walk(key, settings.get(key))
    return flat


def _best(trainer: Trainer) -> dict[str, Any]:
    """Return the metric that chose the checkpoint, and its value."""
    for each in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(each, AtomicCheckpoint) and each.ranking:
            return {"monitor": each.monitor, "best_validation": round(each.ranking[0][0], 6)}
    return {}


def device_name(device: torch.device) -> str:
    """Return the name of the GPU or processor."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.machine()
    models = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return f"{models[0]}, {torch.get_num_threads()} threads" if models else platform.machine()

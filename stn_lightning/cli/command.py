"""Build a training or an evaluation and run it."""

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from jsonargparse import Namespace
from lightning import Callback, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_only

from stn_lightning.callbacks import RecordWriter
from stn_lightning.cli.arguments import configs
from stn_lightning.cli.messages import say
from stn_lightning.cli.parsing import ParsedCommand
from stn_lightning.cli.run_callbacks import FirstStep, run_callbacks
from stn_lightning.cli.trainer_options import (
    first_gpu,
    listed,
    refuse_options,
    require_launcher,
    several_processes,
)
from stn_lightning.runs.folder import data_difference, differences
from stn_lightning.runs.initial_weights import InitialWeights
from stn_lightning.runs.record import RECORD, RunRecord
from stn_lightning.runs.start import choose_start
from stn_lightning.runtime.batch_norm import SyncBatchNorm
from stn_lightning.runtime.checkpoint_io import AtomicCheckpointIO, load_checkpoint
from stn_lightning.runtime.checkpointing import BEST
from stn_lightning.runtime.distributed import DDP, lost_process_reason
from stn_lightning.runtime.guards import NonFiniteError
from stn_lightning.runtime.lightning_internals import end_weight_averaging
from stn_lightning.runtime.locks import claim
from stn_lightning.runtime.precision import FLOAT32, choose_precision
from stn_lightning.runtime.restarts import (
    RESTARTS,
    NoProgressError,
    count_restart,
    is_restart,
    started_by_this_job,
)


class CommandLine(ParsedCommand):
    """Parse and build a training or evaluation; `execute` runs it.

    Args:
        arguments: the command and its options.

    Raises:
        ValueError: the arguments are wrong; the message says in one line why.
    """

    def __init__(self, arguments: list[str]) -> None:
        self.first_step = FirstStep()
        super().__init__(arguments)

    @property
    def _resume(self) -> str:
        """Return --resume; "auto" for "never" in a restarted job.

        A job that is started again resumes its own run, whatever its command says.
        """
        own = is_restart() and started_by_this_job(self.run_folder.path / RESTARTS)
        given: str = self.options.resume
        return "auto" if given == "never" and own else given

    def _choose_precision(self) -> None:
        """Choose the run's earlier precision, or the fastest one."""
        trainer = self.options.trainer
        if trainer.precision is not None or trainer.plugins or self.subcommand != "fit":
            return
        before = {} if self._resume == "never" else self.run_folder.read_config()
        if (known := before.get("trainer", {}).get("precision")) is not None:
            trainer.precision = known
            return
        gpu = trainer.accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available()
        if not gpu and trainer.accelerator not in ("auto", "cpu"):
            return
        several = several_processes(trainer)
        # GPU 0 may be in use by others
        current = torch.cuda.device(first_gpu(trainer)) if gpu else contextlib.nullcontext()
        with current:
            choice = choose_precision("cuda" if gpu else "cpu", several)
        trainer.precision = choice.precision
        if choice.precision != FLOAT32:
            say(f"precision {choice.precision}: {choice.reason}; --trainer.precision sets another")

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        folder = self.run_folder
        chosen = self.built("trainer")
        refuse_options(chosen, folder.checkpoints)
        if chosen["logger"] in (None, True):
            kwargs["logger"] = TensorBoardLogger(
                folder.path.parent, folder.name, version="", default_hp_metric=False
            )
        kwargs["default_root_dir"] = str(folder.path)
        kwargs["callbacks"] = [*self._callbacks(chosen), *listed(chosen["callbacks"])]
        kwargs["callbacks"].append(self.first_step)
        kwargs["enable_model_summary"] = False  # ParameterSummary is shorter
        kwargs["plugins"] = [AtomicCheckpointIO(), *listed(chosen["plugins"])]
        if chosen["sync_batchnorm"]:
            kwargs["plugins"].append(SyncBatchNorm())
        if chosen["strategy"] in ("auto", "ddp") and several_processes(chosen):
            kwargs["strategy"] = DDP()
        trainer = super().instantiate_trainer(**kwargs)
        require_launcher(trainer)
        return trainer

    def _callbacks(self, chosen: Namespace) -> list[Callback]:
        """Return the callbacks of this project."""
        files = [str(config) for config in configs(self.arguments)]
        folder, seed = self.run_folder, self.options.seed_everything
        record = RecordWriter(folder.name, files, seed, self.experiment)
        return run_callbacks(chosen, folder.checkpoints, self.options.monitor, record)

    def execute(self) -> None:
        """Run the command."""
        self.datamodule.prepare_data_per_node = self.options.prepare == "node"
        if self.subcommand == "fit":
            self._fit()
        else:
            checkpoint = self._evaluated()
            evaluate = getattr(self.trainer, str(self.subcommand))
            evaluate(
                self.model,
                datamodule=self.datamodule,
                ckpt_path=checkpoint,
                weights_only=True,
                verbose=False,
            )
            self._say_result("test" if self.subcommand == "test" else "val")

    def _fit(self) -> None:
        first = rank_zero_only.rank == 0  # type: ignore[attr-defined]  # Lightning sets it
        with claim(self.run_folder.path) if first else contextlib.nullcontext():
            start = choose_start(self.run_folder, self._resume, self.options.ckpt_path)
            for line in start.skipped:
                say(f"skipped {line}", sys.stderr)
            if start.path is not None:
                self._compare_with_before()
                if self._say_finished(start.path):
                    return
            elif self.options.init_weights:
                weights = InitialWeights(self.options.init_weights, say)
                self.trainer.callbacks.append(weights)  # type: ignore[attr-defined]
            with self._prepared(start.batches) if first else contextlib.nullcontext():
                self._train(start.path)

    @contextlib.contextmanager
    def _prepared(self, batches: int) -> Iterator[None]:
        """Prepare the run's folder; undo it after an early error.

        An error before the end of the first batch is most likely a mistake of the user. It leaves
        no new folder and no other configuration behind.

        Args:
            batches: number of training batches before the checkpoint to resume from.
        """
        if self.trainer.fast_dev_run:  # type: ignore[attr-defined]  # Lightning sets it
            yield  # nothing is written
            return
        folder = self.run_folder
        moved = folder.set_aside() if self._resume == "never" else None
        new, older = not folder.path.exists(), None
        try:
            older = folder.save_config(self.experiment)
            given = self.options.ckpt_path
            if given is not None and not folder.contains(Path(given)):
                folder.save_origin(Path(given))
            count_restart(folder.path / RESTARTS, batches)
            yield
        except BaseException as problem:
            if not self.first_step.done:
                if moved is not None:
                    folder.put_back(moved)
                elif new and _is_mistake(problem):
                    folder.discard()
                elif older is not None and _is_mistake(problem):
                    older.replace(folder.config)
            raise

    def _train(self, checkpoint: Path | None) -> None:
        """Train, then test the best checkpoint."""
        say(f"{'training' if checkpoint is None else 'resuming'} {self.run_folder.path}")
        self.trainer.fit(
            self.model, datamodule=self.datamodule, ckpt_path=checkpoint, weights_only=True
        )
        if not self.trainer.global_step:
            raise ValueError(
                "not one step was taken; check max_epochs, max_steps, max_time and "
                "limit_train_batches of the trainer"
            )
        if self.trainer.checkpoint_callback is not None and not self.trainer.fast_dev_run:  # type: ignore[attr-defined]
            end_weight_averaging(self.trainer)
            self.trainer.test(
                self.model,
                datamodule=self.datamodule,
                ckpt_path=self._evaluated(),
                weights_only=True,
                verbose=False,
            )
            self._say_result("test")

    def _evaluated(self) -> Path:
        """Return the checkpoint to evaluate."""
        if self.subcommand != "fit" and self.options.ckpt_path is not None:
            given = Path(self.options.ckpt_path)
            if not given.is_file():
                raise ValueError(f"--ckpt_path {given}: there is no such checkpoint")
            return given
        checkpoint = self.run_folder.best()
        if checkpoint.name != BEST and self.options.monitor is not None:
            say(f"{checkpoint.with_name(BEST)} is missing; using {checkpoint}", sys.stderr)
        return checkpoint

    def _compare_with_before(self) -> None:
        """Compare the settings with those of the run.

        Only a longer training is allowed.

        Raises:
            ValueError: a setting changes what is computed; the message names it.
        """
        folder = self.run_folder
        if not folder.config.exists():
            return
        before = self.settings_of_run(folder)
        for key, old, new in folder.refuse_changes(before, self.experiment):
            say(
                f"{key} was {old} and is {new}: the learning rate continues as in a training of "
                "that length; results.json lists both lengths"
            )

    def _say_finished(self, start: Path) -> bool:
        """Return True if the run is finished; print its result."""
        file = self.run_folder.path / RECORD
        if several_processes(self.built("trainer")) or not file.exists():
            return False
        if not _is_complete(load_checkpoint(start), self.trainer):
            return False
        try:
            record = RunRecord.read(file)
        except ValueError:
            return False
        earlier = self.reread(record.settings)
        if record.epochs is None or any(differences(earlier, self.experiment)):
            return False  # it was tested before its end
        if data_difference(earlier, self.experiment) is not None:
            return False  # the checkpoint is compared with the data before it is tested
        limits = (each.get("trainer", {}).get("max_time") for each in (earlier, self.experiment))
        if len(set(limits)) > 1 or record.checkpoint not in (None, self.run_folder.best().name):
            return False  # the record is of other settings, or of a checkpoint that was given
        more = "--trainer.max_epochs N trains longer, --resume never starts over"
        say(f"{self.run_folder.path} is finished, after {record.epochs} epochs; {more}")
        self._say_metrics("test", {**record.metrics, "test/samples": record.samples_tested})
        return True

    def _say_result(self, split: str) -> None:
        metrics = {key: float(value) for key, value in self.trainer.callback_metrics.items()}
        self._say_metrics(split, metrics)

    def _say_metrics(self, split: str, metrics: dict[str, float]) -> None:
        if f"{split}/error" in metrics:
            count = int(metrics.get(f"{split}/samples", 0))
            name = "test" if split == "test" else "validation"
            say(f"{name} error {metrics[f'{split}/error']:.2f} % of {count:,} images")
        say(f"run folder {self.run_folder.path}")
        if (panel := self.run_folder.path / "panel.png").exists():
            say(f"crops {panel}")


def _is_mistake(problem: BaseException) -> bool:
    """Return whether an early error has exit code 2."""
    if isinstance(problem, NonFiniteError | NoProgressError) or not isinstance(problem, Exception):
        return False
    return not (isinstance(problem, RuntimeError) and lost_process_reason(problem))


def _is_complete(checkpoint: dict[str, Any], trainer: Trainer) -> bool:
    """Return whether a checkpoint holds a finished training."""
    loop = checkpoint["loops"]["fit_loop"]
    epoch, batch = loop["epoch_progress"]["current"], loop["epoch_loop.batch_progress"]
    ended = batch["is_last_batch"] and batch["current"]["completed"] == batch["current"]["ready"]
    epochs = epoch["ready"] if ended else epoch["processed"]
    by_epochs = trainer.max_epochs is not None and 0 <= trainer.max_epochs <= epochs
    return by_epochs or 0 <= trainer.max_steps <= checkpoint["global_step"]

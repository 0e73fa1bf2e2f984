"""fit, validate and test on LightningCLI, with its rough edges mended."""

import argparse
import logging
import os
import sys
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import torch
import yaml
from jsonargparse import Namespace
from lightning import LightningDataModule, LightningModule, Trainer
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import Callback, LearningRateMonitor, RichProgressBar
from lightning.pytorch.cli import LightningArgumentParser
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_only

from stn_lightning.callbacks import (
    AlignmentLogger,
    EpochLogger,
    LabelCheck,
    MisclassifiedImages,
    ParameterSummary,
    PartScores,
    PRCurves,
    RecordWriter,
    StatusFile,
    TensorBoardLayout,
    ThroughputLogger,
    TransformerMonitor,
    WarpImages,
)
from stn_lightning.runs.config_errors import check_yaml, one_line
from stn_lightning.runs.folder import RunFolder, default_name
from stn_lightning.runs.shipped_configs import resolve_config
from stn_lightning.runtime.batch_norm import AverageBatchNorm
from stn_lightning.runtime.checkpoint_io import AtomicCheckpointIO, newest_loadable
from stn_lightning.runtime.checkpointing import AtomicCheckpoint
from stn_lightning.runtime.distributed import DDP, destroy_process_groups, lost_process_reason
from stn_lightning.runtime.exact_resume import ExactResume
from stn_lightning.runtime.exit_codes import FAILED, FINISHED, PREEMPTED, PROCESS_LOST, USAGE
from stn_lightning.runtime.guards import NonFiniteError, NonFiniteGuard
from stn_lightning.runtime.lightning_internals import DeferredCLI
from stn_lightning.runtime.memory import keep_freed_memory
from stn_lightning.runtime.preemption import Preempted, Preemption

PARSER = {"exit_on_error": False, "allow_abbrev": False}
NOT_THE_EXPERIMENT = ("config", "name", "resume", "prepare", "ckpt_path", "weights_only", "verbose")


class CommandLine(DeferredCLI):
    """Parses and builds; `execute` runs the command in its run folder."""

    def __init__(self, arguments: list[str]) -> None:
        self.arguments = arguments
        commands = {command: dict(PARSER) for command in self.subcommands()}
        super().__init__(
            LightningModule,
            LightningDataModule,
            save_config_callback=None,
            trainer_defaults={
                "use_distributed_sampler": False,
                "log_every_n_steps": 10,
                "num_sanity_val_steps": 0,
            },
            seed_everything_default=0,
            parser_kwargs={**PARSER, **commands},
            subclass_mode_model=True,
            subclass_mode_data=True,
            args=arguments,
            auto_configure_optimizers=False,
            load_from_checkpoint_support=False,
        )

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """Without `predict`, which is a command of its own."""
        return {
            name: skipped
            for name, skipped in DeferredCLI.subcommands().items()
            if name != "predict"
        }

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        args = _located(args)
        for config in _configs(args):
            check_yaml(config)
        try:
            self.config = parser.parse_args(args)
        except argparse.ArgumentError as problem:
            raise ValueError(
                one_line(problem.message, self.subcommand_parser(args[0]))
            ) from problem

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_argument(
            "--name",
            type=str | None,
            default=None,
            help="of the run; by default the config files' names joined by -",
        )
        resume = "go on with the run of this name if there is one (auto), or it is an error if there is none (must), or start over (never)"
        parser.add_argument(
            "--resume", type=Literal["auto", "must", "never"], default="auto", help=resume
        )
        monitor = "the validation metric whose smallest value makes the best checkpoint"
        parser.add_argument("--monitor", type=str | None, default="val/error", help=monitor)
        prepare = "who prepares the data: a process of each node, on its own disk or a shared one, or the first of all"
        parser.add_argument(
            "--prepare", type=Literal["node", "first"], default="node", help=prepare
        )
        parser.link_arguments("seed_everything", "data.init_args.seed")

    def before_instantiate_classes(self) -> None:
        self.options = self.config[self.subcommand]
        configs = _configs(self.arguments)
        self.run_folder = RunFolder(self.options.name or default_name(configs))
        parser = self.subcommand_parser(str(self.subcommand))
        dump = yaml.safe_load(parser.dump(self.options, skip_link_targets=False))
        self.experiment = {
            key: value for key, value in dump.items() if key not in NOT_THE_EXPERIMENT
        }
        self.results = RecordWriter(
            self.run_folder.name,
            [str(config) for config in configs],
            self.options.seed_everything,
            _flat_strings(self.experiment),
        )

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        folder = self.run_folder
        chosen = self.built("trainer")
        if chosen["logger"] is None:
            kwargs["logger"] = TensorBoardLogger(
                folder.path.parent, folder.name, version="", default_hp_metric=False
            )
        kwargs["default_root_dir"] = str(folder.path)
        kwargs["callbacks"] = [*self._callbacks(chosen), *_listed(chosen["callbacks"])]
        kwargs["enable_model_summary"] = False  # ours says less
        kwargs["plugins"] = [AtomicCheckpointIO(), *_listed(chosen["plugins"])]
        if chosen["strategy"] in ("auto", "ddp") and _several_processes(chosen):
            kwargs["strategy"] = DDP()
        return super().instantiate_trainer(**kwargs)

    def _callbacks(self, chosen: Namespace) -> list[Callback]:
        callbacks: list[Callback] = [
            ThroughputLogger(),
            AlignmentLogger(),
            WarpImages(),
            MisclassifiedImages(),
            TransformerMonitor(),
            StatusFile(),
            PartScores(),
        ]
        callbacks += [
            self.results,
            ExactResume(),
            NonFiniteGuard(),
            LabelCheck(),
            AverageBatchNorm(),
        ]
        if chosen["logger"] is not False:
            callbacks += [LearningRateMonitor("step"), TensorBoardLayout(), PRCurves()]
        if chosen["enable_checkpointing"] is not False:
            callbacks += [
                AtomicCheckpoint(self.run_folder.checkpoints, self.options.monitor),
                Preemption(),
            ]
        if chosen["enable_model_summary"] is not False:
            callbacks.append(ParameterSummary())
        if chosen["enable_progress_bar"] is not False:
            callbacks.append(RichProgressBar(leave=True) if sys.stdout.isatty() else EpochLogger())
        return callbacks

    def execute(self) -> None:
        """Run the command."""
        self.datamodule.prepare_data_per_node = self.options.prepare == "node"
        if self.subcommand == "fit":
            self._fit()
        else:
            checkpoint = self.options.ckpt_path or str(self.run_folder.best())
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
        folder = self.run_folder
        start = None if self.options.resume == "never" else self._checkpoint_to_go_on_from()
        if start is None and self.options.resume == "must":
            raise ValueError(
                f"--resume must: {folder.checkpoints} holds no checkpoint; leave --resume out to start the run"
            )
        if start is not None:
            folder.refuse_changes(self.experiment)
        if rank_zero_only.rank == 0:  # type: ignore[attr-defined]  # Lightning sets it
            if self.options.resume == "never":
                folder.set_aside()
            folder.save_config(self.experiment)
        _say(f"{'training' if start is None else 'going on with'} {folder.path}")
        checkpoint = start or self.options.ckpt_path
        self.trainer.fit(
            self.model, datamodule=self.datamodule, ckpt_path=checkpoint, weights_only=True
        )
        if self.trainer.checkpoint_callback is not None and not self.trainer.fast_dev_run:  # type: ignore[attr-defined]
            self.trainer.test(
                self.model,
                datamodule=self.datamodule,
                ckpt_path=folder.best(),
                weights_only=True,
                verbose=False,
            )
            self._say_result("test")

    def _checkpoint_to_go_on_from(self) -> Path | None:
        resolve_config = newest_loadable(self.run_folder.checkpoints)
        for line in resolve_config.skipped:
            _say(f"left out {line}", sys.stderr)
        return resolve_config.path

    def _say_result(self, split: str) -> None:
        metrics = {key: float(value) for key, value in self.trainer.callback_metrics.items()}
        if f"{split}/error" in metrics:
            pictures = int(metrics.get(f"{split}/samples", 0))
            _say(
                f"{'test' if split == 'test' else 'validation'} error {metrics[f'{split}/error']:.2f} % of {pictures:,} pictures"
            )
        _say(f"run folder {self.run_folder.path}")
        if (panel := self.run_folder.path / "panel.png").exists():
            _say(f"where it looks {panel}")

    @property
    def training(self) -> bool:
        """Whether a step has been taken, so that an error is no longer one of the configuration."""
        return self.trainer.fit_loop.epoch_loop.batch_progress.current.ready > 0


class Parsed(CommandLine):
    """The arguments alone, without the trainer, which may need a GPU that is elsewhere."""

    def instantiate_classes(self) -> None:
        """Not here."""

    def execute(self) -> None:
        """Not here."""


def run(
    arguments: list[str],
    made: Callable[[list[str]], CommandLine] = CommandLine,
    name: str | None = None,
) -> int:
    """Parse `arguments` and run their command.

    Args:
        arguments: the command and what follows it.
        made: of the arguments.
        name: by which the user called it, where that is another one.

    Returns:
        the process's exit code: 0 finished, 2 the user got something wrong, 75 preempted and
        resumable, 69 lost another process, which is resumable too, 1 a failure.
    """
    _quiet()
    keep_freed_memory()
    command: CommandLine | None = None
    called = f"stn {name or arguments[0]}"
    try:
        command = made(_with_config_of_the_run(arguments))
        command.execute()
        destroy_process_groups()
    except Preempted as stopped:
        _say(str(stopped))
        destroy_process_groups()
        return PREEMPTED
    except SystemExit as leaving:  # --help
        return int(leaving.code or 0)
    except NonFiniteError as problem:
        _say(f"{called}: {problem}", sys.stderr)
        return FAILED
    except (ValueError, TypeError, OSError, ImportError, MisconfigurationException) as problem:
        if command is not None and command.training:
            traceback.print_exc()
            return FAILED
        if os.environ.get("STN_TRACEBACK"):
            traceback.print_exc()
        if command is None:  # what the arguments have wrong is the same for all processes
            _say(f"{called}: {one_line(str(problem))}", sys.stderr)
        else:
            rank = rank_zero_only.rank  # type: ignore[attr-defined]  # Lightning sets it
            print(
                f"{called}: {f'process {rank}: ' if rank else ''}{one_line(str(problem))}",
                file=sys.stderr,
                flush=True,
            )
        return USAGE
    except RuntimeError as problem:
        if (said := lost_process_reason(problem)) is None:
            raise
        print(
            f"{called}: {said}; started again it goes on from its last.ckpt",
            file=sys.stderr,
            flush=True,
        )
        os._exit(PROCESS_LOST)  # whatever is tidied up now may wait for the other
    return FINISHED


def fit(arguments: list[str]) -> int:
    """Train a run, then test its best checkpoint."""
    return run(["fit", *arguments])


def validate(arguments: list[str]) -> int:
    """Evaluate a run on the validation images."""
    return run(["validate", *arguments])


def test(arguments: list[str]) -> int:
    """Evaluate a run on the test images; write `results.json`."""
    return run(["test", *arguments])


def _configs(arguments: list[str]) -> list[Path]:
    """The files that --config names."""
    pairs = zip(arguments, [*arguments[1:], ""], strict=True)
    spaced = [value for option, value in pairs if option in ("-c", "--config")]
    return [
        Path(value)
        for value in [
            *spaced,
            *(a.split("=", 1)[1] for a in arguments if a.startswith("--config=")),
        ]
    ]


def _located(arguments: list[str]) -> list[str]:
    """The same; the files that --config names are where they are, which may be in the package."""
    options = zip(["", *arguments], arguments, strict=False)
    spaced = [
        str(resolve_config(Path(word))) if option in ("-c", "--config") else word
        for option, word in options
    ]
    return [
        f"--config={resolve_config(Path(word.split('=', 1)[1]))}"
        if word.startswith("--config=")
        else word
        for word in spaced
    ]


def _with_config_of_the_run(arguments: list[str]) -> list[str]:
    """`stn test --name RUN` needs no --config: the run folder has it."""
    if "--name" not in arguments[:-1] or _configs(arguments):
        return arguments
    config = RunFolder(arguments[arguments.index("--name") + 1]).config
    if not config.exists():
        raise ValueError(
            f"{config} does not exist, so there is no run of that name; give --config FILE"
        )
    return [arguments[0], "--config", str(config), *arguments[1:]]


def _quiet() -> None:
    """Leave out what Lightning says to everyone about everything."""
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", ".*does not have many workers.*")  # the data are in memory
    warnings.filterwarnings(
        "ignore", ".*srun. command is available.*"
    )  # `stn submit` is how to use it
    warnings.filterwarnings(
        "ignore", ".*LeafSpec.*is deprecated"
    )  # lightning 2.6 calls torch 2.14 the old way
    warnings.filterwarnings(
        "ignore", ".*srun. command is available.*"
    )  # on a login node one may well train without it
    warnings.filterwarnings(
        "ignore", ".*Checkpoint directory .* exists and is not empty.*"
    )  # resuming is what it is for


@rank_zero_only
def _say(text: str, stream: Any = None) -> None:
    print(text, file=stream or sys.stdout, flush=True)


def _listed(given: Any) -> list[Any]:
    """What a Trainer takes as nothing, as one or as several."""
    return given if isinstance(given, list) else [] if given is None else [given]


def _several_processes(chosen: Namespace) -> bool:
    """Whether the trainer's settings mean more than one."""
    devices = str(len(chosen.devices) if isinstance(chosen.devices, list) else chosen.devices)
    if devices in ("auto", "-1"):
        devices = "1" if chosen.accelerator == "cpu" else str(torch.cuda.device_count())
    return chosen.num_nodes > 1 or int(devices) > 1


def _flat_strings(config: dict[str, Any]) -> dict[str, Any]:
    """Model and data settings with short dotted names, for TensorBoard's table of runs."""
    flat: dict[str, Any] = {}

    def walk(prefix: str, value: Any) -> None:
        if isinstance(value, dict):
            for key, inner in value.items():
                name = (
                    prefix
                    if key == "init_args"
                    else f"{prefix}.{key}".removesuffix(".class_path").strip(".")
                )
                walk(name, inner.rsplit(".", 1)[-1] if key == "class_path" else inner)
        elif value is not None:
            flat[prefix] = value if isinstance(value, (int, float, str, bool)) else str(value)

    walk("", {key: config[key] for key in ("seed_everything", "model", "data") if key in config})
    return flat

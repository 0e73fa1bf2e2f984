"""Parse configuration files and options of a training."""

import argparse
import copy
from typing import Any, Literal

import yaml
from jsonargparse import Namespace
from lightning import LightningDataModule, LightningModule
from lightning.pytorch.cli import LightningArgumentParser

from stn_lightning import callbacks, datamodules, synthetic  # noqa: F401  # for short names
from stn_lightning.cli.arguments import complete_flags, configs, locate_configs
from stn_lightning.cli.loggers import fill_in_run
from stn_lightning.cli.num_classes import num_classes_of_data
from stn_lightning.runs.config_errors import check_yaml, one_line
from stn_lightning.runs.folder import RunFolder, default_name
from stn_lightning.runtime.lightning_internals import DeferredCLI

PARSER = {"exit_on_error": False, "allow_abbrev": False}
NOT_THE_EXPERIMENT = ("config", "name", "resume", "prepare", "ckpt_path", "weights_only", "verbose")
OPTIONS: dict[str, tuple[Any, Any, str]] = {
    "name": (str | None, None, "name of the run (default: the config files' names joined by -)"),
    "resume": (
        Literal["auto", "must", "never"],
        "auto",
        "auto: resume the run of this name if there is one; must: fail if there is none; "
        "never: start over and rename the old run's folder",
    ),
    "init_weights": (
        str | None,
        None,
        "copy the weights of a run or file whose name and shape fit",
    ),
    "monitor": (
        str | None,
        "val/error",
        "validation metric that chooses the best checkpoint; its smallest value wins",
    ),
    "prepare": (
        Literal["node", "first"],
        "node",
        "which processes download data: one on each node, or only the first",
    ),
}
"""Options that this project adds to Lightning's: type, default, help."""


class ParsedCommand(DeferredCLI):
    """Parse the arguments of a training or evaluation.

    Args:
        arguments: the command and its options.

    Raises:
        ValueError: the arguments are wrong; the message says in one line why.
    """

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
        """Return Lightning's subcommands without `predict`."""
        commands = DeferredCLI.subcommands()
        return {name: skipped for name, skipped in commands.items() if name != "predict"}

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        own = self.subcommand_parser(args[0])
        args = complete_flags(locate_configs(args), _flags(own))
        for config in configs(args):
            check_yaml(config)
        try:
            self.config = parser.parse_args(args)
        except argparse.ArgumentError as problem:
            raise ValueError(one_line(problem.message, own)) from problem

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        for name, (kind, default, text) in OPTIONS.items():
            parser.add_argument(f"--{name}", type=kind, default=default, help=text)
        parser.link_arguments("seed_everything", "data.init_args.seed")

    def settings(self) -> dict[str, Any]:
        """Return the resolved configuration as plain values."""
        return self._plain(self.config[self.subcommand])

    def reread(self, settings: dict[str, Any]) -> dict[str, Any]:
        """Resolve the settings of an earlier run.

        Options that did not exist then have their defaults.

        Raises:
            ValueError: this version does not understand the settings.
        """
        try:
            return self._plain(self.subcommand_parser("fit").parse_object(copy.deepcopy(settings)))
        except (argparse.ArgumentError, SystemExit, KeyError, TypeError) as problem:
            raise ValueError(one_line(str(getattr(problem, "message", problem)))) from problem

    def settings_of_run(self, run: RunFolder) -> dict[str, Any]:
        """Resolve the settings that a run was started with.

        Raises:
            ValueError: this version does not understand them.
        """
        try:
            return self.reread(run.read_config())
        except ValueError as problem:
            raise ValueError(
                f"{run.config} is of another version, which this version cannot read ({problem}); "
                f"give another --name, or move {run.path} away to start over"
            ) from problem

    def _plain(self, options: Namespace) -> dict[str, Any]:
        dump = self.subcommand_parser(str(self.subcommand)).dump(options, skip_link_targets=False)
        content = yaml.safe_load(dump)
        return {key: value for key, value in content.items() if key not in NOT_THE_EXPERIMENT}

    def before_instantiate_classes(self) -> None:
        """Complete the configuration before classes are built."""
        self.options = self.config[self.subcommand]
        self.run_folder = _run_folder(self.options, self.arguments)
        self._choose_precision()
        _complete_num_classes(self.options, self.arguments, self.run_folder)
        self.experiment = self.settings()
        fill_in_run(self.options.trainer.logger, self.run_folder)

    def _choose_precision(self) -> None:
        """Do nothing, as another machine may train."""


class ParsedSettings(ParsedCommand):
    """Parse the arguments without building anything.

    A trainer may need a GPU that only the cluster has.
    """

    seeds = False

    def instantiate_classes(self) -> None:
        """Build nothing."""

    def resolve(self, arguments: list[str]) -> dict[str, Any]:
        """Return the settings that arguments of `stn fit` give.

        Raises:
            ValueError: the arguments are wrong; the message says in one line why.
        """
        words = ["fit", *arguments]
        self.parse_arguments(self.parser, words)
        _complete_num_classes(self.config.fit, words, _run_folder(self.config.fit, words))
        return self.settings()


def _run_folder(options: Namespace, arguments: list[str]) -> RunFolder:
    """Return the folder of the run that arguments name."""
    return RunFolder(default_name(configs(arguments)) if options.name is None else options.name)


def _complete_num_classes(options: Namespace, arguments: list[str], run: RunFolder) -> None:
    """Set the backbone's number of classes from the data."""
    earlier = dict if options.resume == "never" else run.read_config
    if (number := num_classes_of_data(options, arguments, earlier)) is not None:
        options.model.init_args.backbone.init_args.num_classes = number


def _flags(parser: LightningArgumentParser) -> set[str]:
    """Return the options whose values are booleans."""
    return {
        option
        for action in parser._actions
        for option in action.option_strings
        if "bool" in str(getattr(action, "_typehint", ""))
    }

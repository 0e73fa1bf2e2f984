"""`stn tune`: suggest a learning rate or a batch size.

It writes nothing and changes no run.
"""

import logging
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lightning import Callback
from lightning.pytorch.tuner.tuning import Tuner
from torch.optim import Optimizer

from stn_lightning.callbacks import LabelCheck
from stn_lightning.cli.command import CommandLine
from stn_lightning.cli.training import run
from stn_lightning.runs.folder import RunFolder
from stn_lightning.tasks import ClassificationTask

RANGE = (1e-5, 1.0)
"""Smallest and largest learning rate to try.

Lightning suggests the rate at which the loss falls fastest with the rate itself, not with its
logarithm. With its default range, from 1e-8, it would always suggest one of the smallest rates.
"""

SKIPPED = 10
"""Number of first losses to ignore, as their running mean is noisy."""

TRAINER = (
    "logger=false",
    "enable_checkpointing=false",
    "enable_progress_bar=false",
    "devices=1",
    "num_nodes=1",
    "max_epochs=1000000",
)
"""Options of the Trainer for a search: one process, no files, no limit of epochs."""


def tune(
    *,
    config: Sequence[Path] = (),
    steps: int = 300,
    batch_size: bool = False,
    other_options: Sequence[str] = (),
) -> int:
    """Suggest a learning rate or a batch size.

    The suggestion is printed as an option of stn fit; nothing is written. All options of stn fit
    are accepted.

    Args:
        config: configuration files, as for stn fit.
        steps: training steps of the search for a learning rate.
        batch_size: find the largest batch that fits into the GPU's memory instead.
        other_options: options of `stn fit`.

    Returns:
        the exit code.

    Raises:
        ValueError: there are too few steps.
    """
    if steps < 2 * SKIPPED:
        raise ValueError(f"--steps {steps} are too few; give {2 * SKIPPED} or more")
    files = [f"--config={file}" for file in config]
    trainer = [f"--trainer.{setting}" for setting in TRAINER]
    with tempfile.TemporaryDirectory() as folder:
        return run(
            ["fit", *files, *other_options, *trainer],
            lambda given: Tuning(given, Path(folder), None if batch_size else steps),
            "tune",
        )


class Tuning(CommandLine):
    """Search for a learning rate or a batch size.

    Args:
        arguments: command line of `stn fit`.
        below: folder for the files of Lightning's tuner.
        steps: training steps of the search for a learning rate; None to search for a batch size.
    """

    def __init__(self, arguments: list[str], below: Path, steps: int | None) -> None:
        self.below, self.steps = below, steps
        super().__init__(arguments)

    def before_instantiate_classes(self) -> None:
        super().before_instantiate_classes()
        self.run_folder = RunFolder(self.run_folder.name, self.below)

    def _callbacks(self, chosen: Any) -> list[Callback]:
        return [LabelCheck()]

    def execute(self) -> None:
        logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)  # the result is printed
        if self.steps is None:
            self._suggest_batch_size()
        else:
            self._suggest_learning_rate(self.steps)

    def _suggest_learning_rate(self, steps: int) -> None:
        if isinstance(self.model, ClassificationTask):
            _scale_localisation_lr(self.model)
        _end_curriculum(self.datamodule)
        found: Any = Tuner(self.trainer).lr_find(
            self.model,
            datamodule=self.datamodule,
            min_lr=RANGE[0],
            max_lr=RANGE[1],
            num_training=steps,
            update_attr=False,
        )
        rate, tried = found.suggestion(skip_begin=SKIPPED), found.results["lr"]
        if rate is None:
            raise ValueError(
                f"the loss grew fourfold within {len(tried)} steps, at a rate of {tried[-1]:.0e}; "
                "check data and network"
            )
        print(
            f"learning rate {rate:.1e}: the loss falls fastest there, of {len(tried)} steps "
            f"from {tried[0]:.0e} to {tried[-1]:.0e}"
        )
        print(f"--model.init_args.optimizer.init_args.lr {rate:.1e}")

    def _suggest_batch_size(self) -> None:
        if self.trainer.strategy.root_device.type == "cpu":
            raise ValueError(
                "--batch-size doubles the batch until the memory of a GPU is full, and this is a "
                "CPU; choose the batch size by speed"
            )
        before, size = self.datamodule.batch_size, largest_batch(self)
        print(f"batch size {size}: the largest that fits, by doubling or halving {before}")
        print(f"--data.init_args.batch_size {size}")


def largest_batch(command: Tuning) -> int:
    """Find the largest batch size that fits into memory.

    The data module's batch size is doubled, up to the whole training set, or halved if it does not
    fit.
    """
    data: Any = command.datamodule
    _end_curriculum(data)
    data.prepare_data()
    data.setup("fit")
    everything = len(data.dataset("train"))
    found = Tuner(command.trainer).scale_batch_size(
        command.model,
        datamodule=data,
        init_val=data.batch_size,
        max_val=2 * everything,  # this size itself is not tried
    )
    assert found is not None
    return min(found, everything)


def _end_curriculum(data: Any) -> None:
    """Use full distortions, as a search has no epochs."""
    if hasattr(data, "curriculum"):
        data.curriculum = 0.0


def _scale_localisation_lr(task: ClassificationTask) -> None:
    """Scale the transformers' learning rate as in training.

    Lightning's search sets the same rate for all parameters before each step.
    """
    given, factor = task.optimizer, task.localisation_lr_scale

    def optimizer(groups: Any) -> Optimizer:
        built = given(groups)
        built.register_step_pre_hook(lambda *_: _scale(built, factor))
        return built

    task.optimizer = optimizer


def _scale(optimizer: Optimizer, factor: float) -> None:
    for group in optimizer.param_groups:
        if group["name"] == "localisation":
            group["lr"] *= factor

"""`stn tune`: suggests a learning rate or a batch size for a configuration. It writes nothing and
changes no run.
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
"""Learning rates that are tried. Lightning takes the slope over the rate, not over its logarithm,
and would find one of the smallest if it
began at 1e-8, as it does by itself."""
SKIPPED = 10
"""First losses that say nothing yet: their running mean has seen too few."""
ALONE = (
    "logger=false",
    "enable_checkpointing=false",
    "enable_progress_bar=false",
    "devices=1",
    "num_nodes=1",
    "max_epochs=1000000",
)
"""Of the trainer: one process, which keeps nothing and does not stop by itself."""


def tune(
    *,
    config: Sequence[Path] = (),
    steps: int = 300,
    batch_size: bool = False,
    other_options: Sequence[str] = (),
) -> int:
    """Suggest a learning rate, or a batch size, for what stn fit would train.

    The suggestion is printed as the option that takes it; nothing is written.

    Args:
        config: as for stn fit, whose other options are taken, too.
        steps: of the search for a learning rate.
        batch_size: find the largest batch that the GPU's memory holds instead.
        other_options: options of `stn fit`.

    Returns:
        the exit code.

    Raises:
        ValueError: where there are too few steps.
    """
    if steps < 2 * SKIPPED:
        raise ValueError(f"--steps {steps} are too few to see a trend; give {2 * SKIPPED} or more")
    files = [f"--config={file}" for file in config]
    alone = [f"--trainer.{setting}" for setting in ALONE]
    with tempfile.TemporaryDirectory() as folder:
        return run(
            ["fit", *files, *other_options, *alone],
            lambda given: Tuning(given, Path(folder), None if batch_size else steps),
            "tune",
        )


class Tuning(CommandLine):
    """What `stn fit` would train, without what watches and saves it.

    Args:
        arguments: of `stn fit`.
        below: folder for what Lightning's tuner writes.
        steps: of the search for a learning rate; None to search for a batch size.
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
        logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)  # we say what was found
        if self.steps is None:
            self._suggest_batch_size()
        else:
            self._suggest_learning_rate(self.steps)

    def _suggest_learning_rate(self, steps: int) -> None:
        if isinstance(self.model, ClassificationTask):
            _keep_apart(self.model)
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
                f"the loss grew fourfold within {len(tried)} steps, at a rate of {tried[-1]:.0e}; check data and network"
            )
        print(
            f"learning rate {rate:.1e}: the loss falls fastest there, of {len(tried)} steps from {tried[0]:.0e} to {tried[-1]:.0e}"
        )
        print(f"--model.init_args.optimizer.init_args.lr {rate:.1e}")

    def _suggest_batch_size(self) -> None:
        if self.trainer.strategy.root_device.type == "cpu":
            raise ValueError(
                "--batch-size doubles the batch until a GPU's memory is full, and there is none here; choose by speed"
            )
        before, size = self.datamodule.batch_size, largest_batch(self)
        print(f"batch size {size}: the largest that fits of {before} doubled or halved")
        print(f"--data.init_args.batch_size {size}")


def largest_batch(command: Tuning) -> int:
    """The batch size of the data module, doubled until memory is full or it holds all pictures;
    halved where it does not fit itself.
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
        max_val=2 * everything,  # which it does not try
    )
    assert found is not None
    return min(found, everything)


def _end_curriculum(data: Any) -> None:
    """Show a search, which has no epochs, the final distortions."""
    if hasattr(data, "curriculum"):
        data.curriculum = 0.0


def _keep_apart(task: ClassificationTask) -> None:
    """Lightning's search gives all weights one rate; have transformers learn at their part of it,
    as in training.
    """
    given, part = task.optimizer, task.localisation_lr_scale

    def optimizer(groups: Any) -> Optimizer:
        made = given(groups)
        made.register_step_pre_hook(
            lambda *_: _scale(made, part)
        )  # before the next step the schedule sets it anew
        return made

    task.optimizer = optimizer


def _scale(optimizer: Optimizer, part: float) -> None:
    for group in optimizer.param_groups:
        if group["name"] == "localisation":
            group["lr"] *= part

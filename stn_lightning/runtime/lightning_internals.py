"""Uses of Lightning's private names; no other file has any.

Exact resume, preemption and the checkpoint schedule need to know the state of Lightning's loops,
which has no public interface. If a new version of Lightning changes these names,
`tests/runtime/test_lightning_internals.py` fails. pyproject.toml limits the versions that are
installed.
"""

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from lightning import Trainer
from lightning.pytorch.callbacks import WeightAveraging
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.strategies import DDPStrategy
from lightning.pytorch.strategies.launchers import _SubprocessScriptLauncher
from torch import Tensor

TESTED_VERSIONS = ("2.6.4", "2.6.5", "2.6.6")
"""Versions of Lightning in which tests/runtime/test_lightning_internals.py found these names."""


def validation_follows(trainer: Trainer) -> bool:
    """Return True if Lightning validates after this training batch."""
    fetcher = trainer.fit_loop._data_fetcher
    assert fetcher is not None
    return trainer.fit_loop.epoch_loop._should_check_val_fx(fetcher)


def validates_by_clock(trainer: Trainer) -> bool:
    """Return True if `val_check_interval` is a time."""
    return getattr(trainer, "_val_check_time_interval", None) is not None


def may_stop_early(trainer: Trainer) -> bool:
    """Return True if `min_epochs` and `min_steps` are reached."""
    return trainer.fit_loop._can_stop_early


def is_accumulating(trainer: Trainer) -> bool:
    """Return True if gradients are accumulated over the next batch."""
    return trainer.fit_loop.epoch_loop._should_accumulate()


def epoch_is_complete(trainer: Trainer) -> bool:
    """Return True after the last training batch of an epoch."""
    return trainer.fit_loop.epoch_loop._num_ready_batches_reached()


def end_restart(trainer: Trainer) -> None:
    """Make Lightning treat the first epoch after resuming like others."""
    trainer.fit_loop._restarting = False


def restore_metrics(trainer: Trainer, metrics: Mapping[str, Tensor]) -> None:
    """Put `metrics` back into `trainer.callback_metrics`."""
    trainer._logger_connector._callback_metrics.update(metrics)


def end_weight_averaging(trainer: Trainer) -> None:
    """Let a test after a training load the averaged weights.

    `WeightAveraging` saves the average as `state_dict`, and the current weights beside it. As long
    as it has an average in memory, it loads the current weights, to resume from.
    """
    for callback in trainer.callbacks:  # type: ignore[attr-defined]  # Lightning sets it
        if isinstance(callback, WeightAveraging):
            callback._average_model = None


def disable_signal_handlers(trainer: Trainer) -> None:
    """Disable Lightning's signal handlers, and requeueing on SLURM.

    The broadcast of caught signals after each batch is disabled, too; it would wait for the GPU.
    """
    trainer._signal_connector.register_signal_handlers = _nothing  # type: ignore[method-assign]
    trainer.fit_loop.epoch_loop._broadcast_sigterm_tensor = _nothing  # type: ignore[method-assign]


def spare_this_process(trainer: Trainer) -> None:
    """Prevent Lightning's launcher from killing this process."""
    launcher = trainer.strategy.launcher
    if isinstance(launcher, _SubprocessScriptLauncher):
        launcher.procs.clear()


def ddp_options(strategy: DDPStrategy) -> dict[str, Any]:
    """Return the options that go to `DistributedDataParallel`."""
    return strategy._ddp_kwargs


def ddp_timeout(strategy: DDPStrategy) -> timedelta | None:
    """Return the time-out of the strategy's process group."""
    return strategy._timeout


class DeferredCLI(LightningCLI):
    """A command line that parses and builds, without running.

    Hyper-parameters in a checkpoint do not change the configuration.
    """

    seeds = True
    """Whether to seed this process's random numbers."""

    def _set_seed(self) -> None:
        if self.seeds:
            super()._set_seed()

    def _parse_ckpt_path(self) -> None: ...

    def _run_subcommand(self, subcommand: str) -> None: ...

    def subcommand_parser(self, subcommand: str) -> LightningArgumentParser:
        """Return the parser of a subcommand's options."""
        return self._subcommand_parsers[subcommand]

    def built(self, key: str) -> Any:
        """Return the object built for the subcommand's `key`."""
        return self._get(self.config_init, key)


def _nothing() -> None:
    """Do nothing, in place of a method of Lightning."""

"""Check the names of monitored metrics before the first step."""

import difflib
from collections.abc import Iterable

from lightning import LightningModule, Trainer


def validation_metrics(pl_module: LightningModule) -> set[str]:
    """Return the metrics that a module declares for validation.

    They are its attribute `validation_metrics`; without one the set is empty.
    """
    return set(getattr(pl_module, "validation_metrics", ()))


def monitors(trainer: Trainer) -> list[str]:
    """Return the metrics that callbacks and schedules monitor."""
    callbacks = [getattr(callback, "monitor", None) for callback in trainer.callbacks]  # type: ignore[attr-defined]
    schedules = [
        config.monitor for config in trainer.lr_scheduler_configs if config.reduce_on_plateau
    ]
    return [monitor for monitor in (*callbacks, *schedules) if monitor is not None]


def refuse_misspelt_monitors(trainer: Trainer, logged: Iterable[str]) -> None:
    """Compare all monitors with the metrics that validation logs.

    A monitor may also be a metric that training logs, which is not known before the first step. So
    only a monitor that is very similar to a validation metric counts as misspelt: a ratio of 0.8 by
    difflib, where train_loss and val_loss have 0.67.

    Raises:
        ValueError: names the monitor and the metric that was probably meant.
    """
    names = list(logged)
    for monitor in monitors(trainer):
        if monitor not in names and difflib.get_close_matches(monitor, names, 1, cutoff=0.8):
            raise unknown_monitor(monitor, names)


def unknown_monitor(monitor: str, logged: Iterable[str]) -> ValueError:
    """Return the error for a monitor that no validation logs."""
    names = sorted(logged)
    close = difflib.get_close_matches(monitor, names, 1)
    hint = f"did you mean {close[0]}? " if close else ""
    return ValueError(
        f"monitor {monitor!r} is not logged in validation; "
        f"{hint}logged metrics: {', '.join(names) or 'none'}"
    )

"""Monitored metrics, checked before the first step."""

import difflib
from collections.abc import Iterable

from lightning import LightningModule, Trainer


def validation_metrics(pl_module: LightningModule) -> set[str]:
    """Return the metrics that a module declares for validation.

    A module declares them in an attribute `validation_metrics`; without it nothing is known.
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
    """Compare every monitor with the metrics that validation logs.

    Nothing is known of the metrics that training logs, and train_loss resembles val_loss by 0.67:
    only a monitor that resembles a metric by 0.8 counts as misspelt.

    Raises:
        ValueError: names the monitor and the metric that was meant.
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
        f"{hint}logged are {', '.join(names) or 'no metrics at all'}"
    )

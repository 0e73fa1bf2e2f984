"""`stn sweep`: search for the best settings of an experiment.

Optuna chooses the settings of each run by the validation metrics of the runs before it.
"""

import contextlib
import importlib.util
import json
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from stn_lightning.launch.jobs import Ended, Job, fit, run_jobs, run_options
from stn_lightning.launch.settings import settings_of
from stn_lightning.runs.config_errors import check_yaml, read_mapping
from stn_lightning.runs.folder import RUNS, check_name, default_name
from stn_lightning.runs.record import RECORD, RunRecord
from stn_lightning.runs.shipped_configs import resolve_config
from stn_lightning.runtime import signals
from stn_lightning.runtime.exit_codes import FAILED, FINISHED, PREEMPTED, RESUMABLE, USAGE
from stn_lightning.runtime.locks import claim

MONITOR = "monitor"
"""Attribute of a study: name of the metric that is compared."""


class Sweep(NamedTuple):
    """Optuna's study, and the common arguments of its runs."""

    name: str
    study: Any
    ranges: dict[str, Any]
    """Optuna's distributions, by option."""
    configs: list[Path]
    options: list[str]

    def job(self, trial: Any) -> Job:
        """Return the command that starts or resumes a trial."""
        name = self.run_name(trial)
        options = [*run_options(self.configs, name), *self.options, *as_options(trial.params)]
        return Job(fit(options), RUNS / f"{name}.log")

    def run_name(self, trial: Any) -> str:
        """Return the name of a trial's run."""
        return f"{self.name}-{trial.number:04d}"


def sweep(
    ranges: Path,
    *,
    config: Sequence[Path] = (),
    name: str | None = None,
    trials: int = 20,
    jobs: int = 1,
    fit_options: Sequence[str] = (),
) -> int:
    """Search for the settings with the best validation metric.

    Options after -- go to every run. The best settings are printed as options.

    Args:
        ranges: YAML file of options and their ranges, as configs/sweeps/learning_rates.yaml.
        config: configuration files, as for stn fit.
        name: name of the sweep, and first part of its runs' names; by default the files' names
            joined by -.
        trials: total number of runs, including earlier ones.
        jobs: number of runs at the same time.
        fit_options: options of `stn fit`.

    Returns:
        the exit code: 1 if no run finished, 75 if the sweep or a run was stopped; the same command
            resumes it.

    Raises:
        ValueError: an argument is wrong, or differs from an earlier call of this sweep.
    """
    if importlib.util.find_spec("optuna") is None:
        raise ValueError("this needs Optuna; pip install 'stn-lightning[sweep]'")
    if trials < 1 or jobs < 1:
        raise ValueError(f"--trials {trials}, --jobs {jobs}; give 1 or more")
    for path in (ranges, *config):
        check_yaml(resolve_config(path))
    content = read_mapping(resolve_config(ranges))
    name = default_name([*config, ranges]) if name is None else check_name(name)
    distributions = read_ranges(content, ranges)
    _check_settings([*run_options(config, name), *fit_options], distributions)
    begun_with = {"ranges": content, "configs": [str(path) for path in config]}
    signals.start_listening()
    with claim(RUNS / "sweeps" / name):
        study = _study(name, {**begun_with, "options": list(fit_options)}, side_by_side=jobs > 1)
        this = Sweep(name, study, distributions, list(config), list(fit_options))
        _run(this, trials, jobs)
    finished = [trial for trial in study.trials if trial.value is not None]
    if finished:
        best = study.best_trial
        metric = _named(study.user_attrs.get(MONITOR, ""), best.value)
        print(f"best of {len(finished)}: {metric}, {RUNS / this.run_name(best)}")
        print(" ".join(as_options(_shown(best.params))))
    if signals.caught_signal() or not all(trial.state.is_finished() for trial in study.trials):
        return PREEMPTED
    return FINISHED if finished else FAILED


def _check_settings(arguments: list[str], ranges: dict[str, Any]) -> None:
    """Check the settings before the first run.

    Each range is represented by one of its values.

    Raises:
        ValueError: the arguments are wrong, or turn validation off.
    """
    values = {
        option: each.choices[0] if hasattr(each, "choices") else each.low
        for option, each in ranges.items()
    }
    settings = settings_of([*arguments, *as_options(values)])
    if settings["trainer"].get("limit_val_batches") == 0:
        raise ValueError(
            "trainer.limit_val_batches is 0, and a sweep compares validations; "
            "leave it out, or give 1 or more"
        )


def _study(name: str, begun_with: dict[str, Any], *, side_by_side: bool) -> Any:
    """Open Optuna's study in `runs/sweeps/NAME.journal`.

    Raises:
        ValueError: it was begun with other arguments.
    """
    import optuna  # takes seconds to import
    from optuna.storages import journal

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    file = RUNS / "sweeps" / f"{name}.journal"
    file.parent.mkdir(parents=True, exist_ok=True)
    storage = optuna.storages.JournalStorage(journal.JournalFileBackend(str(file)))
    study = optuna.create_study(study_name=name, storage=storage, load_if_exists=True)
    with warnings.catch_warnings():
        # Optuna warns that constant_liar is experimental
        warnings.simplefilter("ignore")
        study.sampler = optuna.samplers.TPESampler(
            seed=len(study.trials), constant_liar=side_by_side
        )
    for key, value in begun_with.items():
        if (before := study.user_attrs.get(key, value)) != value:
            raise ValueError(
                f"{name} was begun with {key} {before}, now they are {value}; "
                "give the old ones, or another --name"
            )
        study.set_user_attr(key, value)
    return study


def read_ranges(ranges: Any, path: Path) -> dict[str, Any]:
    """Convert ranges to Optuna's distributions.

    A range is a list of values, or a mapping with `low` and `high` and optionally `log: true` or
    `step`. If both `low` and `high` are integers, values are integers, too.

    Args:
        ranges: range of each option of `stn fit`.
        path: path of the file, for messages.

    Raises:
        ValueError: an option has no valid range; the message names file and option.
    """
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if not isinstance(ranges, dict) or not ranges:
        raise ValueError(
            f"{path}: no ranges; give an option and its range in each line, "
            "as in configs/sweeps/learning_rates.yaml"
        )
    distributions: dict[str, Any] = {}
    for option, values in ranges.items():
        try:
            if isinstance(values, list):
                distributions[option] = CategoricalDistribution(values)
            else:
                numbers = {key: _number(value) for key, value in values.items()}
                whole = isinstance(numbers["low"], int) and isinstance(numbers["high"], int)
                kind = IntDistribution if whole else FloatDistribution
                distributions[option] = kind(**numbers)
        except (ValueError, TypeError, KeyError, AttributeError) as problem:
            raise ValueError(
                f"{path}: {option}: {values} is no range; "
                "give a list, or low and high, and log: true or a step"
            ) from problem
    return distributions


def _number(value: Any) -> Any:
    """Convert a text such as 1e-3 to a number."""
    return float(value) if isinstance(value, str) else value


def as_options(params: dict[str, Any]) -> list[str]:
    """Return parameters as options of `stn fit`."""
    return [
        part
        for option, value in params.items()
        for part in (f"--{option}", value if isinstance(value, str) else json.dumps(value))
    ]


def _shown(params: dict[str, Any]) -> dict[str, Any]:
    """Round numbers to 6 significant digits, for printing."""
    return {
        option: float(f"{value:.6g}") if isinstance(value, float) else value
        for option, value in params.items()
    }


def _named(metric: str | None, value: float) -> str:
    """Return a metric's name, value and unit."""
    unit = " %" if (metric or "").endswith("error") else ""
    return f"{metric or ''} {value:.4g}{unit}".strip()


def _run(this: Sweep, trials: int, at_once: int) -> None:
    """Resume stopped trials, then run new ones."""
    waiting = [trial for trial in this.study.trials if not trial.state.is_finished()]
    while not signals.caught_signal():
        new = min(trials - len(this.study.trials), at_once - len(waiting))
        waiting += [this.study.ask(this.ranges) for _ in range(new)]
        if not waiting:
            return
        batch, waiting = waiting[:at_once], waiting[at_once:]
        jobs = [this.job(trial) for trial in batch]
        with contextlib.closing(run_jobs(jobs, at_once)) as ended_jobs:
            for ended in ended_jobs:
                _note(this, batch[jobs.index(ended.job)], ended)


def _note(this: Sweep, trial: Any, ended: Ended) -> None:
    """Report a run's result to the study and the user.

    Raises:
        ValueError: the configuration is wrong, so that all runs would fail.
    """
    import optuna

    values = ", ".join(
        f"{option.rpartition('.')[2]} {json.dumps(value)}"
        for option, value in _shown(trial.params).items()
    )
    head = f"{this.run_name(trial)}: {values}:"
    if ended.exit_code == FINISHED:
        record = RunRecord.read(RUNS / this.run_name(trial) / RECORD)
        if record.best_validation is None:
            this.study.tell(trial.number, state=optuna.trial.TrialState.FAIL)
            raise ValueError(
                f"{head} the run was not validated, and a sweep compares validations; "
                "leave out what turns them off, for example limit_val_batches: 0"
            )
        this.study.tell(trial.number, record.best_validation)
        this.study.set_user_attr(MONITOR, record.monitor)
        best = _named(record.monitor, record.best_validation)
        print(f"{head} {best} after {ended.seconds:.0f} s", flush=True)
        return
    if ended.exit_code in RESUMABLE:
        print(f"{head} stopped; the same command resumes it", flush=True)
        return
    last = ended.job.log.read_text(errors="replace").strip().rpartition("\n")[2]
    this.study.tell(trial.number, state=optuna.trial.TrialState.FAIL)
    if ended.exit_code == USAGE:
        raise ValueError(f"{ended.job.log}: {last}")
    print(f"{head} ended with exit code {ended.exit_code}: {last}", file=sys.stderr, flush=True)

"""`stn sweep`: many runs of one experiment with other values, which Optuna chooses; the best
validation wins.
"""

import importlib.util
import json
import sys
import warnings
from argparse import Namespace
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from stn_lightning.launch.jobs import Ended, Job, run_jobs
from stn_lightning.runs.config_errors import check_yaml
from stn_lightning.runs.folder import RUNS, default_name
from stn_lightning.runs.options import Options
from stn_lightning.runs.shipped_configs import resolve_config
from stn_lightning.runtime import signals
from stn_lightning.runtime.exit_codes import FAILED, FINISHED, PREEMPTED, USAGE


class Sweep(NamedTuple):
    """What is looked for, and all that has been found."""

    name: str
    study: Any
    ranges: dict[str, Any]
    """Optuna's distributions, by option"""
    configs: list[Path]
    options: list[str]

    def job(self, trial: Any) -> Job:
        """The run of a trial; the same one goes on where it was stopped."""
        files = [part for path in self.configs for part in ("--config", str(path))]
        name = self.run_name(trial)
        command = [
            sys.executable,
            "-m",
            "stn_lightning",
            "fit",
            *files,
            "--name",
            name,
            *self.options,
            *as_options(trial.params),
        ]
        return Job(command, RUNS / f"{name}.log")

    def run_name(self, trial: Any) -> str:
        """Of a trial."""
        return f"{self.name}-{trial.number:04d}"


def sweep(arguments: list[str]) -> int:
    """Run trials until there are as many as were asked for; print the best as options.

    Returns:
        the process's exit code: 0 finished, 2 the user got something wrong, 75 stopped, and the
        same command goes on, 1 no run finished.
    """
    at = arguments.index("--") if "--" in arguments else len(arguments)
    chosen = _options().parse_args(arguments[:at])
    try:
        this = _opened(chosen, arguments[at + 1 :])
        signals.start_listening()
        _run(this, chosen.trials, chosen.jobs)
    except (ValueError, OSError) as problem:
        print(f"stn sweep: {problem}", file=sys.stderr)
        return USAGE
    finished = [trial for trial in this.study.trials if trial.value is not None]
    if finished:
        best = this.study.best_trial
        print(f"best of {len(finished)}: {best.value:.4g}, {RUNS / this.run_name(best)}")
        print(" ".join(as_options(best.params)))
    return PREEMPTED if signals.caught_signal() else FINISHED if finished else FAILED


def _options() -> Options:
    options = Options(
        "sweep",
        "Train with other values, and keep the best by its validation. Options after -- go to every run.",
    )
    options.add_argument(
        "ranges",
        type=Path,
        help="a YAML of options and their ranges, as configs/sweeps/learning_rates.yaml",
    )
    options.add_argument(
        "--config", type=Path, action="append", default=[], metavar="FILE", help="as for stn fit"
    )
    options.add_argument(
        "--name",
        help="with which those of its runs begin; the files' names joined by - when left out",
    )
    options.add_argument(
        "--trials",
        type=int,
        default=20,
        metavar="N",
        help="runs in all, with earlier ones; %(default)s when left out",
    )
    options.add_argument(
        "--jobs",
        type=int,
        default=1,
        metavar="N",
        help="runs side by side; %(default)s when left out",
    )
    return options


def _opened(chosen: Namespace, options: list[str]) -> Sweep:
    """The sweep, which goes on where it was; `runs/sweeps/NAME.journal` says where that is.

    Raises:
        ValueError: where something is missing, or was different before.
    """
    if importlib.util.find_spec("optuna") is None:
        raise ValueError("this needs Optuna; pip install 'stn-lightning[sweep]'")
    if chosen.trials < 1 or chosen.jobs < 1:
        raise ValueError(f"--trials {chosen.trials}, --jobs {chosen.jobs}; give 1 or more")
    for path in (chosen.ranges, *chosen.config):
        check_yaml(resolve_config(path))
    ranges = yaml.safe_load(resolve_config(chosen.ranges).read_text())
    name = chosen.name or default_name([*chosen.config, chosen.ranges])
    distributions = read_ranges(ranges, chosen.ranges)
    import optuna  # seconds
    from optuna.storages import journal

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    file = RUNS / "sweeps" / f"{name}.journal"
    file.parent.mkdir(parents=True, exist_ok=True)
    storage = optuna.storages.JournalStorage(journal.JournalFileBackend(str(file)))
    study = optuna.create_study(study_name=name, storage=storage, load_if_exists=True)
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore"
        )  # that it is experimental to let runs side by side know of each other
        study.sampler = optuna.samplers.TPESampler(
            seed=len(study.trials), constant_liar=chosen.jobs > 1
        )
    for key, value in {
        "ranges": ranges,
        "configs": [str(path) for path in chosen.config],
        "options": options,
    }.items():
        if (before := study.user_attrs.get(key, value)) != value:
            raise ValueError(
                f"{name} was begun with {key} {before}, now they are {value}; give the old ones, or another --name"
            )
        study.set_user_attr(key, value)
    return Sweep(name, study, distributions, chosen.config, options)


def read_ranges(ranges: Any, path: Path) -> dict[str, Any]:
    """Optuna's distributions: of a list, one of its values; of `low` and `high`, a number between
    them, whole where both are.

    Args:
        ranges: by option of `stn fit`; beside `low` and `high` may stand `log: true` or a `step`.
        path: of the file that they are from.

    Raises:
        ValueError: names the file and the option whose range is none.
    """
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if not isinstance(ranges, dict) or not ranges:
        raise ValueError(
            f"{path}: no ranges; a line is an option and its range, as in configs/sweeps/learning_rates.yaml"
        )
    distributions: dict[str, Any] = {}
    for option, values in ranges.items():
        try:
            if isinstance(values, list):
                distributions[option] = CategoricalDistribution(values)
            else:
                whole = isinstance(values["low"], int) and isinstance(values["high"], int)
                distributions[option] = (IntDistribution if whole else FloatDistribution)(**values)
        except (ValueError, TypeError, KeyError) as problem:
            raise ValueError(
                f"{path}: {option}: {values} is no range; give a list, or low and high, and log: true or a step"
            ) from problem
    return distributions


def as_options(params: dict[str, Any]) -> list[str]:
    """Of `stn fit`."""
    return [
        part
        for option, value in params.items()
        for part in (f"--{option}", value if isinstance(value, str) else json.dumps(value))
    ]


def _run(this: Sweep, trials: int, at_once: int) -> None:
    """Those that were stopped go on; then new ones, until there are enough."""
    waiting = [trial for trial in this.study.trials if not trial.state.is_finished()]
    while not signals.caught_signal():
        new = min(trials - len(this.study.trials), at_once - len(waiting))
        waiting += [this.study.ask(this.ranges) for _ in range(new)]
        if not waiting:
            return
        batch, waiting = waiting[:at_once], waiting[at_once:]
        jobs = [this.job(trial) for trial in batch]
        for ended in run_jobs(jobs, at_once):
            _note(this, batch[jobs.index(ended.job)], ended)


def _note(this: Sweep, trial: Any, ended: Ended) -> None:
    """Tell the study what a run came to, and the user.

    Raises:
        ValueError: where every other run would fail too.
    """
    import optuna

    values = ", ".join(
        f"{option.rpartition('.')[2]} {json.dumps(value)}" for option, value in trial.params.items()
    )
    head = f"{this.run_name(trial)}: {values}:"
    if ended.exit_code == FINISHED:
        results = json.loads((RUNS / this.run_name(trial) / "results.json").read_text())
        this.study.tell(trial.number, results["best_validation"])
        print(
            f"{head} {results['monitor']} {results['best_validation']:.4g} after {ended.seconds:.0f} s",
            flush=True,
        )
        return
    if ended.exit_code == PREEMPTED:
        print(f"{head} stopped; the same command goes on with it", flush=True)
        return
    last = ended.job.log.read_text(errors="replace").strip().rpartition("\n")[2]
    this.study.tell(trial.number, state=optuna.trial.TrialState.FAIL)
    if ended.exit_code == USAGE:
        raise ValueError(f"{ended.job.log}: {last}")
    print(f"{head} ended with exit code {ended.exit_code}: {last}", file=sys.stderr, flush=True)

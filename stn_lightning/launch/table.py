"""`stn table`: train the runs of a table, print it."""

import contextlib
import statistics
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from stn_lightning.launch.jobs import Job, fit, run_jobs, run_options
from stn_lightning.launch.settings import describes, refuse_other_settings, settings_of
from stn_lightning.launch.slurm import (
    Resources,
    fit_command,
    job_script,
    read_site_config,
)
from stn_lightning.launch.submit import submit_script
from stn_lightning.launch.table_drawing import draw_table
from stn_lightning.launch.table_format import (
    Results,
    Table,
    markdown,
    measured,
    read_table,
)
from stn_lightning.runs.config_errors import check_yaml
from stn_lightning.runs.folder import RunFolder, default_name
from stn_lightning.runs.record import RECORD, RunRecord, read_records, write_records
from stn_lightning.runs.shipped_configs import resolve_config
from stn_lightning.runtime import signals
from stn_lightning.runtime.atomic_files import atomic_write
from stn_lightning.runtime.exit_codes import FAILED, FINISHED, PREEMPTED, RESUMABLE, USAGE
from stn_lightning.runtime.locks import file_lock
from stn_lightning.runtime.provenance import program_name


class Cell(NamedTuple):
    """One run of a table."""

    row: str
    column: str
    seed: int
    configs: list[Path]
    options: list[str]

    @property
    def run(self) -> RunFolder:
        return RunFolder(f"{default_name(self.configs)}-{self.seed}")

    @property
    def arguments(self) -> list[str]:
        """Return the arguments of `stn fit` for this run."""
        return self.arguments_with([])

    def arguments_with(self, others: list[str]) -> list[str]:
        """Return the arguments, with `others` before the user's options."""
        seed = ["--seed_everything", str(self.seed)]
        return [*run_options(self.configs, self.run.name), *seed, *others, *self.options]

    def record(self, records: dict[str, RunRecord]) -> RunRecord | None:
        """Find the run's record in its folder or in `records`.

        Records with another configuration than that of the files and options are ignored.
        """
        candidates = [self._own_record(), records.get(self.run.name)]
        return next((each for each in candidates if each and describes(each, self.arguments)), None)

    def _own_record(self) -> RunRecord | None:
        with contextlib.suppress(FileNotFoundError):
            try:
                return RunRecord.read(self.run.path / RECORD)
            except ValueError as problem:
                print(f"skipped {problem}", file=sys.stderr)
        return None


def table(
    table: Path,
    *,
    config: Sequence[Path] = (),
    seeds: Sequence[int] = (0,),
    rows: Sequence[str] | None = None,
    columns: Sequence[str] | None = None,
    jobs: int | None = None,
    out: Path = Path("runs/tables"),
    show: bool = False,
    slurm: bool = False,
    dry_run: bool = False,
    job: Resources = Resources(),  # noqa: B008  # it is frozen
    fit_options: Sequence[str] = (),
) -> int:
    """Train the missing runs of a table, and print it.

    Options after -- go to every run. The table is written as Markdown, PNG and records of its runs.

    Args:
        table: YAML file of rows, columns and the paper's numbers, as configs/tables/mnist.yaml.
        config: further configuration files of every run.
        seeds: seeds of the runs.
        rows: train only runs of these rows; the table still shows every run that exists.
        columns: train only runs of these columns.
        jobs: number of runs at the same time; by default 1, with --slurm all.
        out: folder for the table and its records.
        show: print the table of the runs that exist, and train nothing.
        slurm: submit the runs as a job array; --show prints the table later.
        dry_run: print the commands of the missing runs, or the job script.
        job: resources of each run with --slurm.
        fit_options: options of `stn fit`.

    Returns:
        the exit code: 1 if a run failed, 75 if the table or a run was stopped; the same command
            resumes it.

    Raises:
        ValueError: the table or the configuration of a run is wrong.
    """
    wanted = read_table(table)
    for path in config:
        check_yaml(resolve_config(path))
    if jobs is not None and jobs < 1:
        raise ValueError(f"--jobs {jobs}; give 1 or more")
    file = out / "-".join(path.stem for path in [table, *config])
    records = read_records(_with_ending(file, ".jsonl"))
    chosen = wanted.chosen("rows", rows), wanted.chosen("columns", columns)
    cells = [] if show else list(_cells(wanted, *chosen, seeds, config, fit_options))
    known = [(cell, cell.record(records)) for cell in cells]
    missing = [cell for cell, record in known if record is None]
    for cell in missing:  # to report mistakes before the first run
        settings_of(cell.arguments)
        refuse_other_settings(cell.run, cell.arguments)
    if slurm:
        return _submit(missing, job, file, jobs, f"{table}", dry_run=dry_run)
    if dry_run:
        for cell in missing:
            print(" ".join([program_name(), "fit", *cell.arguments]))
        return FINISHED
    signals.start_listening()
    code = FINISHED if show else _run(missing, jobs or 1, wanted.metric)
    found = {record.name: record for _, record in known if record is not None}
    _write(wanted, file, found, seeds, config, fit_options)
    return PREEMPTED if signals.caught_signal() else code


def _write(
    wanted: Table,
    file: Path,
    found: dict[str, RunRecord],
    seeds: Sequence[int],
    recipe: Sequence[Path],
    options: Sequence[str],
) -> None:
    """Write and print a table of all runs that exist.

    Args:
        wanted: description of the table.
        file: path of its files without their endings.
        found: records that take precedence over those in the file, where another process may have
            added its own in the meantime.
        seeds: seeds of the runs, besides those in the file.
        recipe: further configuration files of every run.
        options: options of `stn fit`.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    with file_lock(_with_ending(file, ".jsonl")):
        records = read_records(_with_ending(file, ".jsonl")) | found
        known = sorted({*seeds, *(record.seed for record in records.values())})
        results: Results = [
            (cell.row, cell.column, record)
            for cell in _cells(
                wanted, list(wanted.rows), list(wanted.columns), known, recipe, options
            )
            if (record := cell.record(records)) is not None
        ]
        records |= {record.name: record for _, _, record in results}
        write_records(_with_ending(file, ".jsonl"), records.values())
        text = markdown(wanted, results)
        with atomic_write(_with_ending(file, ".md")) as output:
            output.write(text.encode("utf-8"))
        draw_table(wanted, results, _with_ending(file, ".png"))
    print(f"{text}\nwritten to {file}.md, .png and .jsonl")


def _cells(
    wanted: Table,
    rows: Sequence[str],
    columns: Sequence[str],
    seeds: Sequence[int],
    recipe: Sequence[Path],
    options: Sequence[str],
) -> Iterator[Cell]:
    """Yield the cells of one seed after the other."""
    for seed in seeds:
        for row in rows:
            for column in columns:
                files = [wanted.rows[row], wanted.columns[column], *recipe]
                yield Cell(row, column, seed, files, list(options))


def _run(missing: list[Cell], at_once: int, metric: str) -> int:
    """Run cells in parallel; return the exit code.

    Raises:
        ValueError: at the first run with a wrong configuration.
    """
    jobs = [Job(fit(cell.arguments), Path(f"runs/{cell.run.name}.log")) for cell in missing]
    failed, stopped, seconds = 0, False, []
    print(
        f"{len(jobs)} runs to do, {at_once} at a time; the output of each is in runs/NAME.log",
        flush=True,
    )
    ended_jobs = run_jobs(jobs, at_once)
    for ended in ended_jobs:
        cell = missing[jobs.index(ended.job)]
        head = f"{cell.row}, {cell.column}, seed {cell.seed}:"
        if ended.exit_code == FINISHED and (record := cell.record({})):
            seconds.append(ended.seconds)
            left = statistics.mean(seconds) * (len(jobs) - len(seconds) - failed) / at_once
            print(
                f"{head} {measured(record, metric):.2f} after {ended.seconds:.0f} s; "
                f"{len(seconds)} of {len(jobs)}, {_time(left)} left",
                flush=True,
            )
        elif ended.exit_code in RESUMABLE:
            stopped = True
            print(f"{head} stopped; the same command resumes it", flush=True)
        else:
            failed += 1
            last = ended.job.log.read_text(errors="replace").strip().rpartition("\n")[2]
            if ended.exit_code == USAGE:
                ended_jobs.close()  # stops the other runs
                raise ValueError(f"{head} {last} ({ended.job.log})")
            why = f"ended with exit code {ended.exit_code}: {last}"
            if ended.exit_code == FINISHED:
                why = (
                    "finished, but its record is of other settings; "
                    f"move {cell.run.path} away to train it again"
                )
            print(f"{head} {why} ({ended.job.log})", file=sys.stderr, flush=True)
    return FAILED if failed else PREEMPTED if stopped else FINISHED


def _submit(
    missing: list[Cell],
    job: Resources,
    file: Path,
    at_once: int | None,
    table: str,
    *,
    dry_run: bool,
) -> int:
    """Submit cells as a job array; return the exit code."""
    show = f"{program_name()} table {table} --show"
    if not missing:
        print(f"0 runs to do; {show} prints the table")
        return FINISHED
    script_path = Path.cwd() / _with_ending(file, ".sh")
    site = read_site_config(job.site)
    job.check()
    lines = []
    for n, cell in enumerate(missing):
        arguments = cell.arguments_with(job.trainer_options())
        job.check_settings(settings_of(arguments))
        lines.append(f"{n}) {fit_command(arguments, site)} ;;")
    directives = {
        "job-name": f"stn-{file.name}",
        "dependency": "singleton",  # a second array of one table waits for the first
        "array": f"0-{len(missing) - 1}" + (f"%{at_once}" if at_once else ""),
        "output": f"{Path.cwd() / file}-%A_%a.out",
    }
    run = "\n".join(["case $SLURM_ARRAY_TASK_ID in", *lines, "esac"])
    text = job_script(job, site, script_path, directives, run)
    if dry_run:
        print(text, end="")
        return FINISHED
    number = submit_script(script_path, text)
    then = f"{program_name()} status; then {show} with the same other options"
    print(f"job {number}, {len(missing)} runs: squeue -r -j {number}; {then}")
    return FINISHED


def _with_ending(file: Path, ending: str) -> Path:
    """Append an ending to a name that may contain dots."""
    return file.with_name(file.name + ending)


def _time(seconds: float) -> str:
    """Format a duration in hours and minutes."""
    return (
        f"{int(seconds // 3600)} h {int(seconds % 3600 // 60)} min"
        if seconds >= 3600
        else f"{seconds / 60:.0f} min"
    )

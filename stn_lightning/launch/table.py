"""`stn table`: the runs of a table of the paper, those that are missing, then the table."""

import json
import statistics
import sys
from argparse import Namespace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from stn_lightning.launch.jobs import Job, run_jobs
from stn_lightning.launch.slurm import (
    add_resources,
    check_options,
    fit_command,
    job_script,
    read_site_config,
    submit_script,
)
from stn_lightning.launch.table_format import Table, draw_table, markdown, read_table
from stn_lightning.runs.folder import RunFolder, default_name, matches
from stn_lightning.runs.options import Options
from stn_lightning.runs.shipped_configs import resolve_config
from stn_lightning.runtime import signals
from stn_lightning.runtime.exit_codes import FAILED, FINISHED, PREEMPTED, USAGE
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
        """Of `stn fit`, which runs it or goes on with it; the table's options come after them."""
        files = [part for path in self.configs for part in ("--config", str(path))]
        return [*files, "--seed_everything", str(self.seed), "--name", self.run.name]

    def record(self, records: dict[str, Any]) -> dict[str, Any] | None:
        """What the run came to: from its folder, else from `records`; None where neither is there
        with these settings.
        """
        file, record = self.run.path / "results.json", records.get(self.run.name)
        if file.exists() and self.run.config.exists():
            date = datetime.fromtimestamp(file.stat().st_mtime, UTC).date().isoformat()
            record = {
                **json.loads(file.read_text()),
                "date": date,
                "settings": yaml.safe_load(self.run.config.read_text()),
            }
        return (
            record
            if record
            and matches(
                record["settings"],
                self.configs,
                ["--seed_everything", str(self.seed), *self.options],
            )
            else None
        )


def table(arguments: list[str]) -> int:
    """Run what is missing of a table; print it, and write it as Markdown, PNG and records of its
    runs.

    Returns:
        the process's exit code: 0 finished, 2 the user got something wrong, 75 stopped, and the
        same command goes on, 1 a run failed.
    """
    at = arguments.index("--") if "--" in arguments else len(arguments)
    chosen = _options().parse_args(arguments[:at])
    try:
        wanted = read_table(chosen.table)
        cells = _cells(wanted, chosen, arguments[at + 1 :])
        file = chosen.out / "-".join(path.stem for path in [chosen.table, *chosen.config])
        records = _read(file.with_suffix(".jsonl"))
        seeds = sorted({*chosen.seeds, *(record["seed"] for record in records.values())})
        shown = _cells(
            wanted,
            Namespace(**vars(chosen) | {"rows": None, "columns": None, "seeds": seeds}),
            arguments[at + 1 :],
        )
    except (ValueError, OSError) as problem:
        print(f"stn table: {problem}", file=sys.stderr)
        return USAGE
    missing = [cell for cell in cells if cell.record(records) is None]
    if chosen.slurm:
        return _submit(missing, chosen, file)
    if chosen.dry_run:
        print(
            "\n".join(
                " ".join([program_name(), "fit", *cell.arguments, *cell.options])
                for cell in missing
            )
        )
        return FINISHED
    signals.start_listening()
    failed = 0 if chosen.show else _run(missing, chosen.jobs or 1, wanted.metric)
    results = [
        (cell.row, cell.column, record)
        for cell in shown
        if (record := cell.record(records)) is not None
    ]
    records |= {record["name"]: record for _, _, record in results}
    text = markdown(wanted, results)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.with_suffix(".jsonl").write_text(
        "".join(json.dumps(record) + "\n" for _, record in sorted(records.items()))
    )
    file.with_suffix(".md").write_text(text)
    draw_table(wanted, results, file.with_suffix(".png"))
    print(f"{text}\nwritten to {file}.md, .png and .jsonl")
    return PREEMPTED if signals.caught_signal() else FAILED if failed else FINISHED


def _options() -> Options:
    options = Options(
        "table",
        "Run what is missing of a table, then print it beside the paper's numbers. Options after -- go to every run.",
    )
    options.add_argument(
        "table",
        type=Path,
        help="its rows, columns and the paper's numbers, as configs/tables/mnist.yaml",
    )
    options.add_argument(
        "--config",
        type=Path,
        action="append",
        default=[],
        metavar="FILE",
        help="on top of every run's files, as a recipe",
    )
    options.add_argument("--seeds", type=int, nargs="+", default=[0], metavar="SEED")
    options.add_argument(
        "--rows",
        nargs="+",
        metavar="ROW",
        help="run these alone; the table has all rows, columns and seeds that are there",
    )
    options.add_argument("--columns", nargs="+", metavar="COLUMN", help="run these alone")
    options.add_argument(
        "--jobs",
        type=int,
        metavar="N",
        help="runs side by side, which share the cores or the GPUs; 1, with --slurm all",
    )
    options.add_argument(
        "--out",
        type=Path,
        default=Path("runs/tables"),
        metavar="FOLDER",
        help="where the table and its records go",
    )
    options.add_argument("--show", action="store_true", help="only what is there; run nothing")
    options.add_argument(
        "--slurm",
        action="store_true",
        help="a job array instead, each run an element; then --show has the table",
    )
    options.add_argument(
        "--dry-run",
        action="store_true",
        help="only print the commands of the missing runs, or the job script",
    )
    add_resources(options, nodes=False)
    return options


def _cells(wanted: Table, chosen: Namespace, options: list[str]) -> list[Cell]:
    """A first seed of every cell before the second of any."""
    rows, columns = wanted.chosen("rows", chosen.rows), wanted.chosen("columns", chosen.columns)
    for path in chosen.config:
        if not resolve_config(path).is_file():
            raise ValueError(f"--config {path}: there is no such file")
    if chosen.jobs is not None and chosen.jobs < 1:
        raise ValueError(f"--jobs {chosen.jobs}; give 1 or more")
    return [
        Cell(row, column, seed, [wanted.rows[row], wanted.columns[column], *chosen.config], options)
        for seed in chosen.seeds
        for row in rows
        for column in columns
    ]


def _read(file: Path) -> dict[str, Any]:
    """Records of runs, by the run's name."""
    lines = file.read_text().splitlines() if file.exists() else []
    return {record["name"]: record for record in map(json.loads, lines)}


def _run(missing: list[Cell], at_once: int, metric: str) -> int:
    """Run cells side by side, a line for each; how many failed."""
    stn = [sys.executable, "-m", "stn_lightning"]
    jobs = [
        Job([*stn, "fit", *cell.arguments, *cell.options], Path(f"runs/{cell.run.name}.log"))
        for cell in missing
    ]
    failed, seconds = 0, []
    print(
        f"{len(jobs)} runs to do, {at_once} at once; each one's output is in runs/NAME.log",
        flush=True,
    )
    for ended in run_jobs(jobs, at_once):
        cell = missing[jobs.index(ended.job)]
        head = f"{cell.row}, {cell.column}, seed {cell.seed}:"
        if ended.exit_code == FINISHED and (record := cell.record({})):
            seconds.append(ended.seconds)
            left = statistics.mean(seconds) * (len(jobs) - len(seconds) - failed) / at_once
            print(
                f"{head} {record['metrics'][metric]:.2f} after {ended.seconds:.0f} s; {len(seconds)} of {len(jobs)}, {_time(left)} left",
                flush=True,
            )
        elif ended.exit_code == PREEMPTED:
            print(f"{head} stopped; the same command goes on with it", flush=True)
        else:
            failed += 1
            last = ended.job.log.read_text(errors="replace").strip().rpartition("\n")[2]
            print(
                f"{head} ended with exit code {ended.exit_code}: {last} ({ended.job.log})",
                file=sys.stderr,
                flush=True,
            )
    return failed


def _submit(missing: list[Cell], chosen: Namespace, file: Path) -> int:
    """Cells as a job array, whose script has a line for each; the exit code."""
    if not missing:
        print(f"0 runs to do; {program_name()} table {chosen.table} --show prints the table")
        return FINISHED
    script_path = Path.cwd() / file.with_suffix(".sh")
    try:
        site = read_site_config(chosen.site)
        check_options(chosen, [], missing[0].options)
        lines = [
            f"{n}) {fit_command(chosen, cell.arguments, site, cell.options)} ;;"
            for n, cell in enumerate(missing)
        ]
        at_once = f"%{chosen.jobs}" if chosen.jobs else ""
        directives = {
            "job-name": f"stn-{file.name}",
            "dependency": "singleton",  # a second array of one table waits for the first
            "array": f"0-{len(missing) - 1}{at_once}",
            "output": f"{script_path.with_suffix('')}-%A_%a.out",
        }
        text = job_script(
            chosen,
            site,
            script_path,
            directives,
            "\n".join(["case $SLURM_ARRAY_TASK_ID in", *lines, "esac"]),
        )
        if chosen.dry_run:
            print(text, end="")
            return FINISHED
        job = submit_script(script_path, text)
    except (ValueError, OSError) as problem:
        print(f"stn table: {problem}", file=sys.stderr)
        return USAGE
    then = f"{program_name()} status; then {program_name()} table {chosen.table} --show, its other options as now"
    print(f"job {job}, {len(missing)} runs: squeue -r -j {job}; {then}")
    return FINISHED


def _time(seconds: float) -> str:
    """In hours and minutes."""
    return (
        f"{int(seconds // 3600)} h {int(seconds % 3600 // 60)} min"
        if seconds >= 3600
        else f"{seconds / 60:.0f} min"
    )

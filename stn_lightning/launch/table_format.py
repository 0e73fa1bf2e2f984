"""Read the description of a table, and format its results."""

import statistics
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from stn_lightning.launch.part_cells import LEGEND, has_parts, part_cell
from stn_lightning.runs.config_errors import did_you_mean, read_mapping
from stn_lightning.runs.record import RunRecord
from stn_lightning.runs.shipped_configs import resolve_config

Results = list[tuple[str, str, RunRecord]]
"""Row, column and record of each run."""

ALIGNMENT = [f"test/alignment_{name}" for name in ("angle", "scale", "place")]
"""Metrics of how well a transformer undoes the distortion."""

SEEDS = 3
"""Seeds needed for a claim: errors of single runs vary by more than networks differ."""


class Claim(NamedTuple):
    """A claim that one row is better than other rows."""

    says: str
    """the claim, in words"""
    columns: list[str]
    better: str
    than: list[str]


class Table(NamedTuple):
    """Description of a table.

    Rows and columns are configuration files. `paper` has the paper's numbers by row and column.
    """

    title: str
    metric: str
    highest: bool
    rows: dict[str, Path]
    columns: dict[str, Path]
    paper: dict[str, dict[str, float]]
    claims: list[Claim]

    def chosen(self, kind: str, names: Iterable[str] | None) -> list[str]:
        """Return the rows or columns of `names`, by default all.

        Raises:
            ValueError: a name is unknown.
        """
        known = getattr(self, kind)
        for name in names or ():
            if name not in known:
                raise ValueError(
                    f"--{kind}: there is no '{name}'{did_you_mean(name, known)}; "
                    f"there is {', '.join(known)}"
                )
        return [name for name in known if names is None or name in names]


def read_table(path: Path) -> Table:
    """Read the description of a table.

    Raises:
        ValueError: something is missing or unknown; the message names the file.
    """
    file = resolve_config(path)
    content = read_mapping(file)
    try:
        rows, columns = (
            {str(name): Path(file) for name, file in content[key].items()}
            for key in ("rows", "columns")
        )
        claims = [Claim(**claim) for claim in content.get("claims", [])]
        table = Table(
            content["title"],
            content["metric"],
            content.get("highest", False),
            rows,
            columns,
            _read_paper(content.get("paper", {})),
            claims,
        )
    except (KeyError, AttributeError, TypeError) as problem:
        raise ValueError(
            f"{path} is no table: {problem}; it needs title, metric, rows and columns, "
            "see configs/tables/mnist.yaml"
        ) from problem
    for kind, names in {
        "rows": [*table.paper, *(row for claim in claims for row in [claim.better, *claim.than])],
        "columns": [
            *(column for numbers in table.paper.values() for column in numbers),
            *(column for claim in claims for column in claim.columns),
        ],
    }.items():
        try:
            table.chosen(kind, names)
        except ValueError as problem:
            raise ValueError(f"{path}: {str(problem).removeprefix('--')}") from problem
    return table


def _read_paper(paper: Any) -> dict[str, dict[str, float]]:
    """Return the paper's numbers by row and column.

    Raises:
        TypeError: something else is given; the message says where.
    """
    if not isinstance(paper, dict):
        raise TypeError(f"paper is {paper!r}, give rows")
    for row, numbers in paper.items():
        if not isinstance(numbers, dict):
            raise TypeError(f"paper: {row} is {numbers!r}, give columns and their numbers")
        for column, number in numbers.items():
            if isinstance(number, bool) or not isinstance(number, int | float):
                raise TypeError(f"paper: {row}: {column} is {number!r}, give a number")
    return {
        str(row): {str(column): float(number) for column, number in numbers.items()}
        for row, numbers in paper.items()
    }


def markdown(table: Table, results: Results) -> str:
    """Format results as a table with claims and provenance."""
    if not results:
        return f"# {table.title}\n\nThere are no runs of it yet.\n"
    lines = [f"# {table.title}", "", _legend(table, results), ""]
    columns = list(table.columns)
    aligned = _has_alignment(results)
    parted = has_parts([record for _, _, record in results])
    extra = ["alignment"] * aligned + ["parts"] * parted + ["parameters", "epochs", "training"]
    lines += [
        f"| | {' | '.join([*columns, *extra])} |",
        "|---" * (len(columns) + len(extra) + 1) + "|",
    ]
    for row in table.rows:
        runs = [record for name, _, record in results if name == row]
        if runs:
            cells = [
                _cell(table, row, column, cell_values(table, results, row, column))
                for column in columns
            ]
            if aligned:
                cells.append(_alignment(table, results, row))
            if parted:
                cells.append(part_cell(runs))
            lines.append(
                f"| {row} | {' | '.join(cells)} | {_range(runs, 'parameters')} "
                f"| {_range(runs, 'epochs')} | {_minutes(runs)} |"
            )
    if table.claims:
        lines += [
            "",
            "| the paper's claim | | ours |" if table.paper else "| claim | | ours |",
            "|---|---|---|",
        ]
        lines += [
            f"| {claim.says} | {column} | {_verdict(table, results, claim, column)} |"
            for claim in table.claims
            for column in claim.columns
        ]
    return "\n".join([*lines, "", *_provenance(results), ""])


def cell_values(table: Table, results: Results, row: str, column: str) -> list[float]:
    """Return the metric of a cell's runs."""
    found = (record for r, c, record in results if (r, c) == (row, column))
    return [measured(record, table.metric) for record in found]


def measured(record: RunRecord, metric: str) -> float:
    """Return a metric of a run.

    Raises:
        ValueError: the run has no such metric.
    """
    if metric not in record.metrics:
        known = ", ".join(sorted(record.metrics))
        raise ValueError(
            f"{record.name} has no metric {metric}, but {known}; change the table's metric"
        )
    return record.metrics[metric]


def _has_alignment(results: Results) -> bool:
    return any(ALIGNMENT[0] in record.metrics for _, _, record in results)


def _alignment(table: Table, results: Results, row: str) -> str:
    """Format the alignment of each column, averaged over seeds."""
    cells = []
    for column in table.columns:
        runs = [record.metrics for r, c, record in results if (r, c) == (row, column)]
        values = [[run[key] for run in runs if key in run] for key in ALIGNMENT]
        means = [f"{statistics.mean(known):.2f}" for known in values if known]
        cells += [f"{column} {' / '.join(means)}"] if means else []
    return ", ".join(cells) or "-"


def _legend(table: Table, results: Results) -> str:
    seeds = sorted({record.seed for _, _, record in results})
    mean = "Mean ± standard deviation over seeds" if len(seeds) > 1 else f"Seed {seeds[0]}"
    if _has_alignment(results):
        mean = (
            "Alignment is the correlation of what the crop undoes with what was applied: angle, "
            f"scale, place, without what the distortion leaves alone. {mean}"
        )
    if has_parts([record for _, _, record in results]):
        mean = f"{LEGEND} {mean}"
    if not table.paper:
        return f"{mean}."
    beats = "at or above" if table.highest else "at or below"
    return (
        f"{mean}; in brackets the paper's number: ✓ ours is {beats} it with {SEEDS} seeds or more, "
        "(✓) with fewer, ✗ it is not."
    )


def _cell(table: Table, row: str, column: str, measured: list[float]) -> str:
    paper = table.paper.get(row, {}).get(column)
    if not measured:
        return "-" if paper is None else f"- ({paper:g})"
    mean = statistics.mean(measured)
    text = f"{mean:.2f}" + (f" ± {statistics.stdev(measured):.2f}" if len(measured) > 1 else "")
    if paper is None:
        return text
    mark = "✗"
    if mean >= paper if table.highest else mean <= paper:
        mark = "✓" if len(measured) >= SEEDS else "(✓)"
    return f"{text} {mark} ({paper:g})"


def _verdict(table: Table, results: Results, claim: Claim, column: str) -> str:
    """Return in words whether a claim holds.

    The row `better` must be better than each row in `than`, with several seeds by more than twice
    the standard error of the difference.
    """
    ours = cell_values(table, results, claim.better, column)
    others = {row: cell_values(table, results, row, column) for row in claim.than}
    if not ours or not all(others.values()):
        return "not run"
    verdicts = []
    for row, theirs in others.items():
        mean, other = statistics.mean(ours), statistics.mean(theirs)
        lead = mean - other if table.highest else other - mean
        variances = [statistics.variance(x) / len(x) for x in (ours, theirs) if len(x) > 1]
        noise = 2 * sum(variances) ** 0.5
        word = "within the spread of the seeds"
        if abs(lead) > noise:
            word = "holds" if lead > 0 else "does not hold"
        seeds = min(len(ours), len(theirs))
        few = "" if seeds >= SEEDS else f", {seeds} seed{'s' * (seeds > 1)}"
        verdicts.append(f"{word} ({mean:.2f} against {other:.2f} of {row}{few})")
    return ", ".join(verdicts)


def _range(runs: list[RunRecord], key: str) -> str:
    """Return the smallest and the largest value of a field."""
    numbers = sorted({value for run in runs if (value := getattr(run, key)) is not None})
    return " to ".join(f"{number:,}" for number in dict.fromkeys(numbers[:1] + numbers[-1:])) or "?"


def _minutes(runs: list[RunRecord]) -> str:
    seconds = [run.train_seconds for run in runs if run.train_seconds]
    return f"{statistics.median(seconds) / 60:.1f} min" if seconds else "?"


def _provenance(results: Results) -> list[str]:
    records = [record for _, _, record in results]

    def all_of(key: str) -> str:
        return ", ".join(sorted({str(getattr(record, key)) for record in records}))

    torch = ", ".join(sorted({record.versions.get("torch", "?") for record in records}))
    return [
        f"{len(records)} runs, seeds {all_of('seed')}, "
        f"{all_of('samples_tested')} test samples each, on {all_of('device')}; "
        f"precision {all_of('precision')}, torch {torch}, commit {all_of('commit')}, "
        f"{all_of('date')}. Training time is the median, without validation and test.",
    ]

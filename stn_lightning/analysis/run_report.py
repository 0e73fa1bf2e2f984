"""Collect the content of a report about one run."""

from pathlib import Path
from typing import NamedTuple

import yaml

from stn_lightning.analysis.evaluation import Evaluation, evaluate
from stn_lightning.analysis.film import animate, filmstrip, read_events
from stn_lightning.callbacks.part_tables import FILE as PARTS
from stn_lightning.callbacks.part_tables import PartTables
from stn_lightning.launch.table_format import read_table
from stn_lightning.runs.loading import TrainedNetwork
from stn_lightning.runs.record import RunRecord
from stn_lightning.runs.shipped_configs import resolve_config


class RunReport(NamedTuple):
    """Content of a report about one run."""

    name: str
    checkpoint: Path
    record: RunRecord | None
    config: str
    """resolved configuration, as YAML"""
    class_names: tuple[str, ...]
    curves: dict[str, list[tuple[int, float]]]
    """for each tag in TensorBoard its points (step, value)"""
    paper: list[str]
    """for each table that the run belongs to, a line with the run's number and the paper's"""
    evaluation: Evaluation
    parts: PartTables | None
    """scores of annotated parts, if the last test measured them"""
    animation: bytes | None
    """animated WebP of the same images after each epoch"""
    filmstrip: bytes | None
    """PNG of the first images at a few steps"""


def collect(network: TrainedNetwork) -> RunReport:
    """Read a run's folder, and evaluate its network."""
    events = read_events(network.folder)
    tables = resolve_config(Path("configs/tables"))
    return RunReport(
        network.name,
        network.checkpoint,
        network.record,
        yaml.safe_dump(network.config, sort_keys=False),
        network.class_names,
        events.curves,
        paper_numbers(network.record, tables) if network.record else [],
        evaluate(network),
        PartTables.read(network.folder / PARTS),
        animate(events.panels),
        filmstrip(events.panels),
    )


def paper_numbers(record: RunRecord, tables: Path) -> list[str]:
    """Return the run's numbers beside the paper's.

    Args:
        record: record of the run.
        tables: folder of the YAML files that describe tables.
    """
    lines = []
    configs = set(map(Path, record.configs))
    for path in sorted(tables.glob("*.yaml")):
        table = read_table(path)
        cells = [(row, column) for row in table.rows for column in table.columns]
        for row, column in cells:
            if not {table.rows[row], table.columns[column]} <= configs:
                continue
            paper = table.paper.get(row, {}).get(column)
            ours = record.metrics.get(table.metric)
            if paper is not None and ours is not None:
                lines.append(f"{table.title}, {row} on {column}: {ours:.2f}, the paper {paper:g}")
    return lines

"""Cells of a table with the scores of annotated parts."""

import itertools
import re
from collections.abc import Sequence

from stn_lightning.runs.record import RunRecord

SCORE = re.compile(r"test/(.+)_crop_(\d+)")
OVERLAP = "test/crop_overlap"
LEGEND = (
    "Parts: % of the test images in which a crop contains at least half of a group's visible parts "
    "(in brackets: at least one). Each group has the crop that suits it best, and one of its own "
    "if there are enough. Then the mean intersection over union of two crops. Given are the lowest "
    "and the highest seed."
)


def has_parts(records: Sequence[RunRecord]) -> bool:
    """Return whether a record scores parts."""
    return any(_scores(record) for record in records)


def part_cell(records: Sequence[RunRecord]) -> str:
    """Return the lowest and highest scores of a row's runs."""
    best = [_best(record) for record in records if _scores(record)]
    if not best:
        return "-"
    cells = []
    for group in best[0]:
        held = _span([scores[group][0] for scores in best if group in scores])
        some = _span([scores[group][1] for scores in best if group in scores])
        cells.append(f"{group} {held} ({some})")
    overlaps = [record.metrics[OVERLAP] for record in records if OVERLAP in record.metrics]
    return ", ".join([*cells, f"overlap {_span(overlaps, 2)}"] if overlaps else cells)


def _scores(record: RunRecord) -> dict[str, dict[int, float]]:
    """Return a run's scores: group, number of crop, %."""
    found: dict[str, dict[int, float]] = {}
    for name, value in record.metrics.items():
        if match := SCORE.fullmatch(name):
            found.setdefault(match[1], {})[int(match[2])] = value
    return found


def _best(record: RunRecord) -> dict[str, tuple[float, float]]:
    """Assign a crop to each group; return its two scores."""
    scores = _scores(record)
    groups = [name for name in scores if f"{name}_any" in scores]
    crops = sorted(scores[groups[0]]) if groups else []
    repeat = 1 if len(groups) <= len(crops) else len(groups)
    choices = itertools.permutations(crops * repeat, len(groups))
    chosen = max(choices, key=lambda crop: sum(map(lambda g, c: scores[g][c], groups, crop)))
    return {g: (scores[g][c], scores[f"{g}_any"][c]) for g, c in zip(groups, chosen, strict=True)}


def _span(values: Sequence[float], digits: int = 0) -> str:
    ends = [f"{value:.{digits}f}" for value in (min(values), max(values))]
    return ends[0] if ends[0] == ends[1] else " to ".join(ends)

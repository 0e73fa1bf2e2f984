"""Fill the template of the page of `stn report`."""

import base64
import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import jinja2
import torch
from torch import Tensor

from stn_lightning.analysis.evaluation import confusion_table, most_confused
from stn_lightning.analysis.run_report import RunReport

TEMPLATE = Path(__file__).with_name("report.html")
COLOURS = ("#0b6fb8", "#d1495b", "#2e8b57", "#8e5ea2", "#c98a00", "#3d3d3d")
"""Colours of runs, in turn."""
CURVES = {
    "val/error": "Validation error, %",
    "train/error": "Training error, %",
    "val/loss": "Validation loss",
    "train/loss": "Training loss",
    "val/alignment_angle": "Correlation of undone and applied angle",
    "transformer/out_of_bounds": "Share of the crop out of bounds",
    "transformer/largest_scale": "Largest scale",
    "transformer/displacement": "Distance from the identity, px",
    "transformer/spread": "Spread over the batch, px",
}
"""Tags in TensorBoard, and the titles of their charts."""
METRICS = {
    "test/error": "test error, %",
    "test/loss": "test loss",
    "test/alignment_angle": "alignment of the angle, correlation",
    "test/alignment_angle_degrees": "mean error of the angle, degrees",
    "test/alignment_scale": "alignment of the scale, correlation",
    "test/alignment_scale_factor": "mean error of the scale, factor",
    "test/alignment_place": "alignment of the place, correlation",
    "test/alignment_place_pixels": "mean error of the place, px",
}
"""Names of metrics in the table; others keep the name that they were logged under."""
NUMBERS = (
    *("samples_tested", "parameters", "epochs", "samples_seen", "train_seconds"),
    *("images_per_second", "seed", "precision", "device", "devices", "commit", "date"),
)
"""Fields of a run's record, in the order of the table."""
WIDTH, HEIGHT, LEFT, BOTTOM = 360, 200, 44, 22
"""Size of a chart, and its margins, in pixels."""
LARGEST_CONFUSION = 20
"""Largest number of classes for a confusion matrix. With more, the most confused pairs are listed.
"""


class Line(NamedTuple):
    """A curve of a chart."""

    colour: str
    points: str
    """in the format of SVG's `polyline`"""


class Chart(NamedTuple):
    """Curves of several runs, and the limits of the axes."""

    title: str
    lines: list[Line]
    low: float
    high: float
    last: int


def render(reports: Sequence[RunReport]) -> str:
    """Return the page about runs as HTML.

    It contains images and curves, and no script.
    """
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    template = environment.from_string(TEMPLATE.read_text())
    return template.render(
        title=" against ".join(report.name for report in reports),
        reports=reports,
        colours=[COLOURS[i % len(COLOURS)] for i in range(len(reports))],
        results=result_rows(reports),
        provenance=provenance_rows(reports),
        charts=charts(reports),
        confusion=confusion,
        confused_pairs=confused_pairs,
        theta_rows=theta_rows,
        data_url=lambda content, kind: (
            f"data:image/{kind};base64,{base64.b64encode(content).decode()}"
        ),
        size={"width": WIDTH, "height": HEIGHT, "left": LEFT, "bottom": BOTTOM},
    )


def result_rows(reports: Sequence[RunReport]) -> dict[str, list[str]]:
    """Return the test's metrics, a cell for each run."""
    metrics = [report.record.metrics if report.record else {} for report in reports]
    return _rows(
        [{METRICS.get(key, key): f"{value:.4g}" for key, value in each.items()} for each in metrics]
    )


def provenance_rows(reports: Sequence[RunReport]) -> dict[str, list[str]]:
    """Return how each run was made."""
    runs = []
    for report in reports:
        record = asdict(report.record) if report.record else {}
        known = [key for key in NUMBERS if record.get(key) is not None]
        cells = {key.replace("_", " "): _shown(record[key]) for key in known}
        runs.append({"checkpoint": report.checkpoint.name} | cells | record.get("versions", {}))
    return _rows(runs)


def _rows(runs: Sequence[dict[str, str]]) -> dict[str, list[str]]:
    """Return a row for each name; missing cells are empty."""
    names = dict.fromkeys(name for cells in runs for name in cells)
    return {name: [cells.get(name, "") for cells in runs] for name in names}


def _shown(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int | float) else str(value)


def charts(reports: Sequence[RunReport]) -> list[Chart]:
    """Return a chart for each tag of CURVES."""
    drawn = []
    for tag, title in CURVES.items():
        curves = [
            (COLOURS[i % len(COLOURS)], report.curves[tag])
            for i, report in enumerate(reports)
            if len(report.curves.get(tag, ())) > 1
        ]
        if curves:
            drawn.append(chart(title, curves))
    return drawn


def chart(title: str, curves: Sequence[tuple[str, list[tuple[int, float]]]]) -> Chart:
    """Place curves in a chart.

    Args:
        title: title of the chart.
        curves: the colour of each, and its points (step, value). Values that are not finite are
            left out.
    """
    thinned = [
        (colour, thin([point for point in points if math.isfinite(point[1])]))
        for colour, points in curves
    ]
    values = [value for _, points in thinned for _, value in points] or [0.0]
    last = max((points[-1][0] for _, points in thinned if points), default=1) or 1
    low, high = min(0.0, *values), max(values)
    high = high if high > low else low + 1
    across, down = (WIDTH - LEFT - 4) / last, (HEIGHT - BOTTOM - 6) / (high - low)
    lines = [
        Line(
            colour,
            " ".join(f"{LEFT + s * across:.1f},{6 + (high - v) * down:.1f}" for s, v in points),
        )
        for colour, points in thinned
    ]
    return Chart(title, lines, low, high, last)


def thin(points: list[tuple[int, float]], limit: int = 200) -> list[tuple[int, float]]:
    """Return at most `limit` points by averaging successive ones."""
    size = math.ceil(len(points) / limit) or 1
    parts = [points[i : i + size] for i in range(0, len(points), size)]
    return [(part[-1][0], sum(value for _, value in part) / len(part)) for part in parts]


def theta_rows(report: RunReport) -> list[tuple[str, list[float], list[float]]]:
    """Return name, statistics and histogram of each number of theta.

    The statistics are mean, standard deviation, minimum and maximum over the test images. Heights
    of the histogram are from 0 to 24.
    """
    theta = report.evaluation.theta
    if theta is None:
        return []
    rows = []
    for n, of_one in enumerate(theta.unbind(1)):
        for i, values in enumerate(of_one.unbind(1)):
            name = f"{n}." * (theta.shape[1] > 1) + f"theta.{i:02d}"
            statistics = (values.mean(), values.std(correction=0), values.min(), values.max())
            rows.append((name, [float(each) for each in statistics], _histogram(values)))
    return rows


def _histogram(values: Tensor, bins: int = 40) -> list[float]:
    counts = torch.histc(values, bins)
    return [float(count) for count in 24 * counts / counts.max().clamp(min=1)]


def confusion(report: RunReport) -> list[list[tuple[int, float]]] | None:
    """Return the confusion matrix: rows are labels, columns answers.

    Returns:
        for each cell the count, and its share of the row; None for sequences of labels, or more
        than `LARGEST_CONFUSION` classes.
    """
    if report.evaluation.label.dim() != 1 or len(report.class_names) > LARGEST_CONFUSION:
        return None
    table = confusion_table(
        report.evaluation.label, report.evaluation.answer, len(report.class_names)
    )
    shares = table / table.sum(1, keepdim=True).clamp(min=1)
    return [
        list(zip(row, share, strict=True))
        for row, share in zip(table.tolist(), shares.tolist(), strict=True)
    ]


def confused_pairs(report: RunReport) -> list[tuple[str, str, int]]:
    """Return (label, answer, count) of the most confused classes."""
    if report.evaluation.label.dim() != 1:
        return []
    evaluation, names = report.evaluation, report.class_names
    table = confusion_table(evaluation.label, evaluation.answer, len(names))
    pairs = most_confused(table, LARGEST_CONFUSION)
    return [(names[label], names[answer], count) for label, answer, count in pairs]

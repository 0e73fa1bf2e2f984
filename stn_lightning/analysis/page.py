"""The page of `stn report`: HTML with pictures and curves inside, without a script."""

import base64
import html
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from stn_lightning.analysis.report import RunReport

COLOURS = ("#0b6fb8", "#d1495b", "#2e8b57", "#8e5ea2", "#c98a00", "#3d3d3d")
"""Of runs, in turn."""
CURVES = (
    ("val/error", "Validation error, %"),
    ("train/error", "Training error, %"),
    ("val/loss", "Validation loss"),
    ("train/loss", "Training loss"),
    ("transformer/out_of_bounds", "Part of the crop out of bounds"),
    ("transformer/largest_scale", "Largest scale"),
    ("transformer/displacement", "Distance from the identity, px"),
    ("transformer/spread", "Spread over the batch, px"),
)
NUMBERS = (
    *(
        "samples_tested",
        "parameters",
        "epochs",
        "samples_seen",
        "train_seconds",
        "images_per_second",
    ),
    *("seed", "precision", "device", "devices", "commit"),
)
"""Of results.json, in this order."""
STYLE = """
:root{color-scheme:light dark;--line:#8884}*{box-sizing:border-box}
body{font:16px/1.5 system-ui,sans-serif;max-width:72rem;margin:auto;padding:1rem}
h1{font-size:1.5rem}h2{font-size:1.2rem;margin-top:2.2rem;border-top:1px solid var(--line);padding-top:.8rem}
h3{font-size:1rem;margin:.8rem 0 .3rem}
.wide{overflow-x:auto}table{border-collapse:collapse;font-size:.9rem}
td,th{padding:.2rem .55rem;text-align:right;border-bottom:1px solid var(--line)}
td:first-child,th:first-child{text-align:left}img{max-width:100%;height:auto;display:block}
.grid{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,20rem),1fr));gap:1rem}svg{width:100%;height:auto}
svg text{font:11px system-ui,sans-serif;fill:currentColor}pre{overflow-x:auto;font-size:.8rem}
.key{display:inline-block;width:.8rem;height:.8rem;margin:0 .3rem 0 .8rem}
.confusion td{text-align:center;min-width:2.1rem}figure{margin:0}figcaption{font-size:.85rem;opacity:.8}
"""


def page(runs: Sequence["RunReport"]) -> str:
    """All of it."""
    title = html.escape(" against ".join(run.name for run in runs))
    parts = [f"<h1>{title}</h1>", _legend(runs), _numbers(runs), _paper(runs), _curves(runs)]
    parts += [part for run in runs for part in _looks(run)]
    parts += [_theta(run) for run in runs if run.evaluation.theta is not None]
    parts += [_confusion(run) for run in runs if run.evaluation.label.dim() == 1]
    parts += [_configuration(run) for run in runs]
    head = (
        '<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
    )
    head += f'<title>{title}</title><link rel="icon" href="data:,"><style>{STYLE}</style>'
    return f'<!doctype html><html lang="en"><head>{head}</head><body>{"".join(parts)}</body></html>'


def _configuration(run: "RunReport") -> str:
    text = f"<details><summary>config.yaml</summary><pre>{html.escape(run.config)}</pre></details>"
    return f"<h2>Configuration of {html.escape(run.name)}</h2>{text}"


def _legend(runs: Sequence["RunReport"]) -> str:
    keys = (
        f'<span class="key" style="background:{_colour(i)}"></span>{html.escape(run.name)}'
        for i, run in enumerate(runs)
    )
    return f"<p>{''.join(keys)}</p>"


def _colour(i: int) -> str:
    return COLOURS[i % len(COLOURS)]


def _numbers(runs: Sequence["RunReport"]) -> str:
    """Results and environment, a column for each run."""
    rows: dict[str, list[str]] = {}
    for n, run in enumerate(runs):
        said = {name: f"{value:.4g}" for name, value in run.results.get("metrics", {}).items()}
        said |= {
            key.replace("_", " "): _said(run.results[key])
            for key in NUMBERS
            if run.results.get(key) is not None
        }
        said |= run.results.get("versions", {})
        for name, value in said.items():
            rows.setdefault(name, [""] * len(runs))[n] = html.escape(str(value))
    cells = {
        name: "".join(f"<td>{value}</td>" for value in values) for name, values in rows.items()
    }
    body = "".join(
        f"<tr><td>{html.escape(name)}</td>{columns}</tr>" for name, columns in cells.items()
    )
    head = "".join(f"<th>{html.escape(run.name)}</th>" for run in runs)
    return f'<h2>Results and environment</h2><div class="wide"><table><tr><th></th>{head}</tr>{body}</table></div>'


def _said(value: Any) -> str:
    return f"{value:,}" if isinstance(value, (int, float)) else str(value)


def _paper(runs: Sequence["RunReport"]) -> str:
    lines = [
        f"<li>{html.escape(run.name)}: {html.escape(line)}</li>"
        for run in runs
        for line in run.paper
    ]
    said = (
        f"<ul>{''.join(lines)}</ul>"
        if lines
        else "<p>None of these runs is a cell of a table of the paper.</p>"
    )
    return f"<h2>The paper's numbers</h2>{said}"


def _curves(runs: Sequence["RunReport"]) -> str:
    drawn = []
    for tag, title in CURVES:
        lines = [
            (i, run.curves[tag]) for i, run in enumerate(runs) if len(run.curves.get(tag, ())) > 1
        ]
        if lines:
            drawn.append(f"<figure><h3>{title}</h3>{_chart(lines)}</figure>")
    said = (
        f'<div class="grid">{"".join(drawn)}</div>'
        if drawn
        else "<p>Nothing was logged (trainer.logger: false).</p>"
    )
    return f"<h2>Training, by step</h2>{said}"


def _chart(
    lines: list[tuple[int, list[tuple[int, float]]]], width: int = 360, height: int = 200
) -> str:
    """Values over steps; a line drawn through at most 200 points, each the mean of those that it
    stands for.
    """
    left, bottom = 44, 22
    thinned = [(i, _thinned([p for p in points if math.isfinite(p[1])])) for i, points in lines]
    last = max((points[-1][0] for _, points in thinned if points), default=1) or 1
    values = [value for _, points in thinned for _, value in points] or [0.0]
    low, high = min(0.0, *values), max(values)
    high = high if high > low else low + 1
    paths = []
    for i, points in thinned:
        across = [left + (width - left - 4) * step / last for step, _ in points]
        down = [6 + (height - bottom - 6) * (high - value) / (high - low) for _, value in points]
        where = " ".join(f"{x:.1f},{y:.1f}" for x, y in zip(across, down, strict=True))
        paths.append(
            f'<polyline points="{where}" fill="none" stroke="{_colour(i)}" stroke-width="1.6"/>'
        )
    axes = f'<path d="M{left} 6V{height - bottom}H{width - 4}" fill="none" stroke="#888"/>'
    marks = f'<text x="{left - 4}" y="14" text-anchor="end">{high:.3g}</text>'
    marks += f'<text x="{left - 4}" y="{height - bottom}" text-anchor="end">{low:.3g}</text>'
    marks += f'<text x="{width - 4}" y="{height - 6}" text-anchor="end">{last:,}</text><text x="{left}" y="{height - 6}">0</text>'
    return f'<svg viewBox="0 0 {width} {height}" role="img">{axes}{"".join(paths)}{marks}</svg>'


def _thinned(points: list[tuple[int, float]], most: int = 200) -> list[tuple[int, float]]:
    size = math.ceil(len(points) / most) or 1
    parts = [points[i : i + size] for i in range(0, len(points), size)]
    return [(part[-1][0], sum(value for _, value in part) / len(part)) for part in parts]


def _looks(run: "RunReport") -> list[str]:
    """The animation and the two galleries."""
    name, parts = html.escape(run.name), []
    if run.animation:
        parts.append(f"<h2>{name}: the same pictures, epoch by epoch</h2>")
        parts.append(_image(run.animation, "webp", "where it looks after each epoch"))
    if run.evaluation.chosen:
        first, worst = (
            _image(run.evaluation.chosen, "png", "gallery"),
            _image(run.evaluation.worst, "png", "gallery of errors"),
        )
        said = html.escape("; ".join(run.evaluation.worst_said) or "all are right")
        parts.append(
            f'<h2>{name}: where it looks</h2><div class="grid"><figure><h3>The first test pictures</h3>{first}'
            "<figcaption>input with outline, then what the transformer hands on</figcaption></figure>"
            f"<figure><h3>The worst</h3>{worst}<figcaption>the highest losses first: {said}</figcaption></figure></div>"
        )
    return parts


def _image(content: bytes, kind: str, words: str) -> str:
    return (
        f'<img alt="{words}" src="data:image/{kind};base64,{base64.b64encode(content).decode()}">'
    )


def _theta(run: "RunReport") -> str:
    """Mean, spread and histogram of each number over the test pictures."""
    assert run.evaluation.theta is not None
    rows = []
    several = run.evaluation.theta.shape[1] > 1
    for n, theta in enumerate(run.evaluation.theta.unbind(1)):
        for i, values in enumerate(theta.unbind(1)):
            name = f"{n}." * several + f"theta.{i:02d}"
            numbers = (values.mean(), values.std(correction=0), values.min(), values.max())
            cells = "".join(f"<td>{float(number):.3f}</td>" for number in numbers)
            rows.append(f"<tr><td>{name}</td>{cells}<td>{_histogram(values)}</td></tr>")
    head = "<tr><th>number</th><th>mean</th><th>std</th><th>smallest</th><th>largest</th><th>histogram</th></tr>"
    return f'<h2>{html.escape(run.name)}: theta over the test pictures</h2><div class="wide"><table>{head}{"".join(rows)}</table></div>'


def _histogram(values: Tensor, bins: int = 40) -> str:
    counts = torch.histc(values, bins).tolist()
    tall = [(i, 24 * count / max(*counts, 1)) for i, count in enumerate(counts) if count]
    bars = "".join(
        f'<rect x="{3 * i}" y="{24 - height:.1f}" width="2.4" height="{height:.1f}"/>'
        for i, height in tall
    )
    return (
        f'<svg viewBox="0 0 {3 * bins} 24" style="width:{3 * bins}px" fill="#0b6fb8">{bars}</svg>'
    )


def _confusion(run: "RunReport", most: int = 20) -> str:
    """Rows are what it is, columns what it was taken for; of many classes the pairs confused most."""
    seen, n = run.evaluation, len(run.class_names)
    table = torch.bincount(seen.label * n + seen.answer, minlength=n * n).view(n, n)
    names = [html.escape(name) for name in run.class_names]
    title = f"<h2>{html.escape(run.name)}: what is taken for what</h2>"
    if n > most:
        wrong = table.clone().fill_diagonal_(0).flatten()
        pairs = [
            (int(wrong[i]), i // n, i % n)
            for i in wrong.argsort(descending=True)[:most].tolist()
            if wrong[i]
        ]
        return (
            title
            + "<ul>"
            + "".join(f"<li>{names[a]} taken for {names[b]}: {count}</li>" for count, a, b in pairs)
            + "</ul>"
        )
    head = "<tr><th></th>" + "".join(f"<th>{name}</th>" for name in names) + "</tr>"
    rows = []
    for i, name in enumerate(names):
        total = max(1, int(table[i].sum()))
        cells = "".join(
            _cell(int(count), int(count) / total, i == j)
            for j, count in enumerate(table[i].tolist())
        )
        rows.append(f"<tr><td>{name}</td>{cells}</tr>")
    return f'{title}<div class="wide"><table class="confusion">{head}{"".join(rows)}</table></div>'


def _cell(count: int, share: float, right: bool) -> str:
    if not count:
        return "<td></td>"
    colour, strength = ("46,139,87", share) if right else ("209,73,91", min(1.0, 0.15 + 4 * share))
    return f'<td style="background:rgba({colour},{strength:.2f})">{count}</td>'

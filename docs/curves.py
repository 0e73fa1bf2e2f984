"""Draw validation error against epochs, for several runs.

    python docs/curves.py NAME RUN RUN ...

It writes docs/results/curves-NAME.md and .png.
"""

import sys
from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.ticker import FormatStrFormatter, LogLocator, NullFormatter

from stn_lightning.analysis.film import read_events
from stn_lightning.runs.record import RunRecord

RESULTS = Path(__file__).parent / "results"
COLUMNS = 8
"""Largest number of epochs in the table."""


def validation(run: Path) -> list[float]:
    """Return the validation error after each epoch, in percent."""
    curve = read_events(run).curves["val/error"]
    return [value for _, value in sorted(dict(curve).items())]  # a resumed epoch counts once


def main(name: str, *runs: str) -> None:
    folders = [Path("runs") / run for run in runs]
    records = [RunRecord.read(folder / "results.json") for folder in folders]
    curves = [validation(folder) for folder in folders]
    longest = max(map(len, curves))
    chosen = sorted({round(longest * (i + 1) / COLUMNS) for i in range(COLUMNS)} - {0})
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    lines = [
        f"# {name}: validation error against epochs",
        "",
        f"`python docs/curves.py {name} {' '.join(runs)}`",
        "",
        f"| % after epoch | {' | '.join(map(str, chosen))} | tested | commit |",
        f"|---|{'---|' * len(chosen)}---|---|",
    ]
    for run, record, curve in zip(runs, records, curves, strict=True):
        axes.plot(range(1, len(curve) + 1), curve, label=run, linewidth=1.2)
        cells = [f"{curve[epoch - 1]:.2f}" if epoch <= len(curve) else "" for epoch in chosen]
        tested = f"{record.metrics['test/error']:.2f}"
        lines.append(f"| {run} | {' | '.join(cells)} | {tested} | {record.commit} |")
    axes.set(xlabel="epochs", ylabel="validation error, %", yscale="log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(FormatStrFormatter("%g"))
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    figure.savefig(RESULTS / f"curves-{name}.png", dpi=120)
    lines += ["", f"![validation error against epochs, one line a run](curves-{name}.png)"]
    (RESULTS / f"curves-{name}.md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])

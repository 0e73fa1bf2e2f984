"""Draw a table's results as points beside the paper's numbers."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from stn_lightning.launch.table_format import Results, Table, cell_values


def draw_table(table: Table, results: Results, file: Path) -> None:
    """Draw runs as points and the paper's numbers as lines.

    Columns without runs are left out, unless there are no runs at all.

    Args:
        table: description of the table.
        results: its runs.
        file: path of the image.
    """
    import matplotlib as mpl  # slow to import

    mpl.use("agg")
    from matplotlib import pyplot as plt

    rows = [row for row in table.rows if any(r == row for r, _, _ in results)]
    columns = [column for column in table.columns if any(c == column for _, c, _ in results)]
    columns = columns or list(table.columns)
    width, height = max(2.4 * len(columns) + 1.2, 6.0), 0.36 * len(rows) + 1.6  # room for the title
    figure, panels = plt.subplots(
        1,
        len(columns),
        figsize=(width, height),
        sharey=True,
        squeeze=False,
        layout="constrained",
    )
    for panel, column in zip(panels[0], columns, strict=True):
        _draw_column(panel, table, results, rows, column)
    figure.suptitle(
        f"{table.title}\n(points: ours, one a seed{'; lines: the paper' if table.paper else ''})",
        fontsize=10,
    )
    figure.savefig(file, dpi=110)
    plt.close(figure)


def _draw_column(
    panel: Any, table: Table, results: Results, rows: Sequence[str], column: str
) -> None:
    """Draw a column of the table, first row on top."""
    for y, row in enumerate(reversed(rows)):
        measured = cell_values(table, results, row, column)
        paper = table.paper.get(row, {}).get(column)
        if paper is not None:
            panel.plot([paper, paper], [y - 0.35, y + 0.35], color="0.55", lw=2)
        panel.plot(measured, [y] * len(measured), "o", color="C0", ms=5, alpha=0.8)
    right = max(panel.get_xlim()[1], 1.06 * panel.dataLim.x1)  # room for the rightmost point
    panel.set(title=column, xlim=(0, right), ylim=(-0.6, len(rows) - 0.4))
    panel.set_yticks(range(len(rows)), list(reversed(rows)))
    panel.grid(axis="x", alpha=0.3)

"""Draw the subpackages and their imports.

    make figures

The diagram and the table in docs/architecture.md are made from the import statements of the source,
so they cannot differ from the code.
"""

import ast
import re
from pathlib import Path

import matplotlib as mpl
from matplotlib.figure import Figure

DOCS = Path(__file__).parent
PACKAGE = DOCS.parent / "stn_lightning"
PAGE, DIAGRAM = DOCS / "architecture.md", DOCS / "architecture.png"
PARTS = {
    "The data": (("datasets", 0, 0), ("datamodules", 0, 1), ("synthetic", 0, 2)),
    "The method": (
        ("geometry", 1, 0),
        ("distortions", 1, 1),
        ("transformers", 1, 2),
        ("backbones", 1, 3),
        ("tasks", 1, 4),
    ),
    "The runtime": (("runtime", 2, 0),),
    "Running and using": (
        ("runs", 3, 0),
        ("callbacks", 3, 1),
        ("analysis", 3, 2),
        ("launch", 3, 3),
        ("cli", 3, 4),
        ("zoo", 2, 1),
    ),
}
"""Subpackages with their column and row in the diagram, by the part that they belong to."""
COLOURS = {
    "The data": "#4477aa",
    "The method": "#228833",
    "The runtime": "#aa3377",
    "Running and using": "#997700",
}
BEGIN, END = "<!-- imports: made by docs/architecture.py -->", "<!-- end of imports -->"


def imports() -> dict[str, list[str]]:
    """Return the subpackages that each subpackage imports."""
    subpackages = sorted(path.parent.name for path in PACKAGE.glob("*/__init__.py"))
    return {
        subpackage: sorted(_imported(subpackage) & set(subpackages) - {subpackage})
        for subpackage in subpackages
    }


def _imported(subpackage: str) -> set[str]:
    names: set[str] = set()
    for path in (PACKAGE / subpackage).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module:
                first, *rest = node.module.split(".")
                if first == "stn_lightning":
                    names |= {rest[0]} if rest else {alias.name for alias in node.names}
    return names


def table() -> str:
    """Return the imports as a Markdown table."""
    rows = [
        f"| `{subpackage}` | {', '.join(uses) or 'nothing'} |"
        for subpackage, uses in imports().items()
    ]
    return "\n".join([BEGIN, "", "| subpackage | imports |", "|---|---|", *rows, "", END])


def draw(file: Path) -> None:
    """Draw subpackages as boxes and imports as arrows."""
    mpl.rcParams["svg.hashsalt"] = "architecture"
    figure = Figure(figsize=(11, 6), dpi=110)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    axes.set_xlim(-0.5, 3.5)
    axes.set_ylim(-0.6, 5.3)
    place = {
        subpackage: (x, y) for subpackages in PARTS.values() for subpackage, x, y in subpackages
    }
    colour = {
        subpackage: COLOURS[part]
        for part, subpackages in PARTS.items()
        for subpackage, *_ in subpackages
    }
    for subpackage, uses in imports().items():
        for other in uses:
            bend = 0.35 if place[subpackage][0] == place[other][0] else 0.12
            style = {"arrowstyle": "-|>", "color": colour[subpackage], "alpha": 0.55, "lw": 1.1}
            style |= {"connectionstyle": f"arc3,rad={bend}", "shrinkA": 24, "shrinkB": 24}
            axes.annotate("", xy=place[other], xytext=place[subpackage], arrowprops=style)
    for part, subpackages in PARTS.items():
        axes.text(subpackages[0][1], 5.0, part, ha="center", fontsize=13, color=COLOURS[part])
        for subpackage, x, y in subpackages:
            box = {"boxstyle": "round,pad=0.5", "fc": "white", "ec": COLOURS[part], "lw": 1.6}
            axes.text(x, y, subpackage, ha="center", va="center", fontsize=12, bbox=box)
    figure.savefig(file, metadata={"Software": None})


def main() -> None:
    """Write the diagram, and the table into the page."""
    draw(DIAGRAM)
    block = re.compile(re.escape(BEGIN) + ".*" + re.escape(END), re.DOTALL)
    PAGE.write_text(block.sub(lambda _: table(), PAGE.read_text()))


if __name__ == "__main__":
    main()

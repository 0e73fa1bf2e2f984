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
    "The data": (("synthetic", 0, 3.3), ("datamodules", 0, 2.2), ("datasets", 0, 1.1)),
    "The method": (
        ("tasks", 1.5, 2.2),
        ("distortions", 0.75, 1.1),
        ("transformers", 1.5, 1.1),
        ("backbones", 2.1, 1.1),
        ("geometry", 1.5, 0),
    ),
    "The runtime": (("runtime", 1.5, -1.3),),
    "Running and using": (
        ("analysis", 3, 4.2),
        ("launch", 3, 3.36),
        ("cli", 3, 2.52),
        ("callbacks", 3, 1.68),
        ("runs", 3, 0.84),
        ("zoo", 3, 0),
    ),
}
"""Subpackages with their place in the diagram, by part; the first of a part is uppermost."""
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


def arrows() -> list[tuple[str, str]]:
    """Return the imports that do not follow from others."""
    direct = imports()

    def reached(subpackage: str) -> set[str]:
        return {subpackage}.union(*(reached(other) for other in direct[subpackage]))

    return [
        (subpackage, other)
        for subpackage, uses in direct.items()
        for other in uses
        if not any(other in reached(third) for third in uses if third != other)
    ]


def draw(file: Path) -> None:
    """Draw subpackages as boxes and imports as arrows."""
    mpl.rcParams["svg.hashsalt"] = "architecture"
    figure = Figure(figsize=(11, 6), dpi=110)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    axes.set_xlim(-0.4, 3.4)
    axes.set_ylim(-1.6, 4.9)
    boxes = {}
    for part, subpackages in PARTS.items():
        _, x, y = subpackages[0]
        axes.text(x, y + 0.42, part, ha="center", fontsize=13, color=COLOURS[part])
        for subpackage, x, y in subpackages:
            box = {"boxstyle": "round,pad=0.5", "fc": "white", "ec": COLOURS[part], "lw": 1.6}
            boxes[subpackage] = axes.text(
                x, y, subpackage, ha="center", va="center", fontsize=12, bbox=box
            )
    figure.canvas.draw()  # gives the boxes their sizes, at which the arrows end
    for subpackage, other in arrows():
        here, there = boxes[subpackage], boxes[other]
        edge = here.get_bbox_patch()
        style = {"arrowstyle": "-|>,head_width=0.3,head_length=0.6", "lw": 1.4, "shrinkA": 2}
        style |= {"patchA": edge, "patchB": there.get_bbox_patch(), "shrinkB": 2}
        style |= {"color": edge.get_edgecolor()}
        axes.annotate("", xy=there.get_position(), xytext=here.get_position(), arrowprops=style)
    figure.savefig(file, metadata={"Software": None})


def main() -> None:
    """Write the diagram, and the table into the page."""
    draw(DIAGRAM)
    block = re.compile(re.escape(BEGIN) + ".*" + re.escape(END), re.DOTALL)
    PAGE.write_text(block.sub(lambda _: table(), PAGE.read_text()))


if __name__ == "__main__":
    main()

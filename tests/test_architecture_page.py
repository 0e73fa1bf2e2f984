"""docs/architecture.md says what the imports of the source say."""

import runpy
from pathlib import Path

DOCS = Path(__file__).parents[1] / "docs"


def test_the_table_of_imports_is_that_of_the_source() -> None:
    made = runpy.run_path(str(DOCS / "architecture.py"))
    assert made["table"]() in made["PAGE"].read_text(), "run make figures"


def test_no_arrow_of_the_diagram_passes_behind_a_box() -> None:
    made = runpy.run_path(str(DOCS / "architecture.py"))
    place = {name: (x, y) for part in made["PARTS"].values() for name, x, y in part}
    arrows: list[tuple[str, str]] = made["arrows"]()
    assert len(arrows) >= len(place) - 1

    def behind(begin: str, end: str, box: str) -> bool:
        (x, y), (x1, y1), (x2, y2) = place[box], place[begin], place[end]
        steps = [n / 100 for n in range(101)]
        points = [(x1 + (x2 - x1) * step, y1 + (y2 - y1) * step) for step in steps]
        return any(abs(x - p) < 0.24 and abs(y - q) < 0.22 for p, q in points)

    assert [
        (*arrow, box)
        for arrow in arrows
        for box in place
        if box not in arrow and behind(*arrow, box)
    ] == []


def test_the_diagram_shows_every_subpackage(tmp_path: Path) -> None:
    made = runpy.run_path(str(DOCS / "architecture.py"))
    drawn = {subpackage for subpackages in made["PARTS"].values() for subpackage, *_ in subpackages}
    assert drawn == set(made["imports"]())
    made["draw"](tmp_path / "architecture.png")
    assert (tmp_path / "architecture.png").stat().st_size > 10_000

"""docs/architecture.md says what the imports of the source say."""

import runpy
from pathlib import Path

DOCS = Path(__file__).parents[1] / "docs"


def test_the_table_of_imports_is_that_of_the_source() -> None:
    made = runpy.run_path(str(DOCS / "architecture.py"))
    assert made["table"]() in made["PAGE"].read_text(), "run make figures"


def test_the_diagram_shows_every_subpackage(tmp_path: Path) -> None:
    made = runpy.run_path(str(DOCS / "architecture.py"))
    drawn = {subpackage for subpackages in made["PARTS"].values() for subpackage, *_ in subpackages}
    assert drawn == set(made["imports"]())
    made["draw"](tmp_path / "architecture.png")
    assert (tmp_path / "architecture.png").stat().st_size > 10_000

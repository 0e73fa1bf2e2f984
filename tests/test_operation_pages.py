"""Each operation has a short page with a figure that one command draws."""

import runpy
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[1] / "docs"
PAGES = sorted((DOCS / "operations").glob("*.md"))
PARTS = ("Formula", "Convention", "When", "Cost", "Limits", "Source")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_page_has_its_parts_and_a_small_figure(page: Path) -> None:
    text = page.read_text()
    assert [part for part in PARTS if f"**{part}.**" not in text] == []
    assert f"({page.stem}.png)" in text
    assert page.with_suffix(".png").stat().st_size < 60_000


def test_one_command_draws_the_figure_of_every_page() -> None:
    figures = runpy.run_path(str(DOCS / "figures.py"))["FIGURES"]
    assert sorted(figures) == [page.stem for page in PAGES]
    assert figures["learnt_target"]()

import re
from fnmatch import filter as matching
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
PAGE = TESTS.parent / "docs" / "conventions.md"


@pytest.mark.parametrize(
    "pattern", sorted(set(re.findall(r"`((?:[a-z0-9*]+_){3,}[a-z0-9*]+)`", PAGE.read_text())))
)
def test_every_promise_on_the_conventions_page_is_pinned(pattern: str) -> None:
    files = [*TESTS.glob("geometry/*.py"), *TESTS.glob("transformers/*.py")]
    names = [
        name
        for file in files
        for name in re.findall(r"^def test_(\w+)", file.read_text(), re.MULTILINE)
    ]
    assert matching(names, pattern)

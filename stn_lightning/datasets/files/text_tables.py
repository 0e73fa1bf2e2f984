"""Read text tables; name mistakes by file and row."""

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any


def rows(path: Path, *columns: Callable[[str], Any]) -> Iterator[tuple[int, list[Any]]]:
    """Yield number and values of each row.

    The first row has number 1; blank rows are skipped. Columns are split at white space, and the
    last one keeps its own.

    Args:
        path: a file in UTF-8, with a byte-order mark or without.
        columns: function that reads each column's text, and raises a ValueError at a mistake.

    Raises:
        ValueError: with the names of file and row, and what was expected there.
    """
    try:
        lines = path.read_bytes().decode("utf-8-sig").splitlines()
    except OSError as problem:
        raise ValueError(f"{path}: cannot be read ({problem.strerror})") from problem
    except UnicodeDecodeError as problem:
        row = problem.object.count(10, 0, problem.start) + 1
        raise ValueError(f"{path}: row {row}: byte {problem.start} is not UTF-8 text") from problem
    for number, line in enumerate(lines, 1):
        words = line.split(maxsplit=len(columns) - 1)
        if not words:
            continue
        if len(words) != len(columns):
            raise ValueError(f"{path}: row {number}: {len(words)} columns, expected {len(columns)}")
        try:
            values = [column(word.strip()) for column, word in zip(columns, words, strict=True)]
        except ValueError as problem:
            raise ValueError(f"{path}: row {number}: {problem}") from problem
        yield number, values


def keyed(path: Path, *columns: Callable[[str], Any]) -> dict[int, Any]:
    """Return rows by the number in their first column.

    A lone second column stands for itself.

    Raises:
        ValueError: as `rows`, and where a number comes twice.
    """
    found: dict[int, Any] = {}
    for number, (key, *values) in rows(path, whole_number, *columns):
        if key in found:
            raise ValueError(f"{path}: row {number}: {key} has two rows")
        found[key] = values[0] if len(values) == 1 else values
    return found


def whole_number(word: str) -> int:
    """Read the number of a thing."""
    if not (word.isascii() and word.isdigit() and len(word) < 10):
        raise ValueError(f"{word[:40]!r} is no whole number")
    return int(word)


def truth(word: str) -> bool:
    """Read 0 or 1."""
    if word not in ("0", "1"):
        raise ValueError(f"{word[:40]!r} is neither 0 nor 1")
    return word == "1"


def number(word: str) -> float:
    """Read a finite number."""
    try:
        value = float(word)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise ValueError(f"{word[:40]!r} is no finite number")
    return value


def same_keys(first: Path, these: dict[int, Any], second: Path, those: dict[int, Any]) -> None:
    """Check that two files speak of the same things.

    Raises:
        ValueError: with the name of the file that lacks one.
    """
    for path, found, other in ((first, these, those), (second, those, these)):
        if missing := other.keys() - found.keys():
            raise ValueError(
                f"{path}: {len(missing):,} numbers are missing that the other files have, "
                f"the first is {min(missing)}"
            )

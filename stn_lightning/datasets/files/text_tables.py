"""Read text tables; errors name the file and the row."""

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any


def rows(path: Path, *columns: Callable[[str], Any]) -> Iterator[tuple[int, list[Any]]]:
    """Yield number and values of each row.

    The first row has number 1; blank rows are skipped. Columns are separated by white space, which
    the last column may also contain.

    Args:
        path: a file in UTF-8, with or without a byte-order mark.
        columns: functions that convert the text of each column, or raise a ValueError.

    Raises:
        ValueError: a row has a mistake; the message names file and row.
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
    """Return the rows by the number in their first column.

    A row is a list of its other columns, or the second column itself if there are only two.

    Raises:
        ValueError: as in `rows`, or a number occurs twice.
    """
    found: dict[int, Any] = {}
    for number, (key, *values) in rows(path, whole_number, *columns):
        if key in found:
            raise ValueError(f"{path}: row {number}: {key} has two rows")
        found[key] = values[0] if len(values) == 1 else values
    return found


def whole_number(word: str) -> int:
    """Convert the digits of a number, for example an id."""
    if not (word.isascii() and word.isdigit() and len(word) < 10):
        raise ValueError(f"{word[:40]!r} is no whole number")
    return int(word)


def truth(word: str) -> bool:
    """Convert 0 or 1 to a boolean."""
    if word not in ("0", "1"):
        raise ValueError(f"{word[:40]!r} is neither 0 nor 1")
    return word == "1"


def number(word: str) -> float:
    """Convert a finite number."""
    try:
        value = float(word)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise ValueError(f"{word[:40]!r} is no finite number")
    return value


def same_keys(first: Path, these: dict[int, Any], second: Path, those: dict[int, Any]) -> None:
    """Check that two tables have the same keys.

    Raises:
        ValueError: a table lacks keys of the other; the message names its file.
    """
    for path, found, other in ((first, these, those), (second, those, these)):
        if missing := other.keys() - found.keys():
            raise ValueError(
                f"{path}: {len(missing):,} numbers of the other files are missing, "
                f"the first is {min(missing)}"
            )

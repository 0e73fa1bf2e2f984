"""Lists in messages."""

from collections.abc import Sequence


def first_few(lines: Sequence[str], most: int = 5) -> list[str]:
    """Shorten a long list for a message.

    >>> first_few(["a", "b", "c", "d"], most=2)
    ['a', 'b', 'and 2 more']
    """
    return [*lines[:most], *([f"and {len(lines) - most:,} more"] if len(lines) > most else [])]

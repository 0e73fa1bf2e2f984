"""Bring data sets here, and check what is here, before a training needs them."""

import sys
from collections.abc import Callable
from functools import partial

from stn_lightning.datasets import CUB, MNIST, SVHN, Source
from stn_lightning.runs.config_errors import did_you_mean

SETS: dict[str, Callable[[], Source]] = {
    "mnist": MNIST,
    "cub": CUB,
    "svhn": SVHN,
    "svhn-128": partial(SVHN, 128),
}


def prepare(arguments: list[str]) -> int:
    """Download what is missing, check what is there, read every split; report all that is wrong at
    once.

    Returns:
        the process's exit code: 0 all is well, 2 something is missing or wrong.
    """
    wrong = 0
    for name in arguments or list(SETS):
        if name not in SETS:
            print(
                f"stn prepare: there is no data set '{name}'{did_you_mean(name, SETS)}; there is {', '.join(SETS)}",
                file=sys.stderr,
            )
            wrong += 1
            continue
        try:
            source = SETS[name]()
            source.prepare()
            print(f"{name}: checked, {source.check()}")
        except (ValueError, OSError) as problem:
            for line in str(problem).splitlines():
                print(f"stn prepare: {line}", file=sys.stderr)
            wrong += 1
    return 2 if wrong else 0

"""`stn prepare`: download and check data sets."""

import sys
from collections.abc import Callable
from functools import partial

from stn_lightning.datasets import CUB, MNIST, SVHN, Source
from stn_lightning.runs.config_errors import did_you_mean
from stn_lightning.runtime.exit_codes import FINISHED, USAGE

SETS: dict[str, Callable[[], Source]] = {
    "mnist": MNIST,
    "cub": CUB,
    "svhn": SVHN,
    "svhn-128": partial(SVHN, 128),
}


def prepare(*data_sets: str) -> int:
    """Download missing files of data sets, and check every file.

    The data sets are mnist, cub, svhn and svhn-128. Their folder is the environment variable
    STN_DATA, or data/. All faults are reported at once.

    Args:
        data_sets: names of data sets; all when left out.

    Returns:
        the exit code.
    """
    code = FINISHED
    said: set[str] = set()  # two data sets may lack the same file
    for name in data_sets or SETS:
        try:
            if name not in SETS:
                known = ", ".join(SETS)
                hint = did_you_mean(name, SETS)
                raise ValueError(f"there is no data set '{name}'{hint}; there is {known}")
            source = SETS[name]()
            source.prepare()
            print(f"{name}: checked, {source.check()}")
        except (ValueError, OSError) as problem:
            for line in str(problem).splitlines():
                if line not in said:
                    print(f"stn prepare: {line}", file=sys.stderr)
                said.add(line)
            code = USAGE
    return code

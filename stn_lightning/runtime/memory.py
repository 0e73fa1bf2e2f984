"""Let the C library keep memory for the next tensors."""

import ctypes
import sys

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
"""Parameters of glibc's mallopt(3)."""


def keep_freed_memory() -> bool:
    """Let glibc keep the memory of freed tensors.

    A training step frees and allocates the same few megabytes hundreds of times. If glibc returns
    them to the kernel, the kernel has to map and zero them again page by page, which takes longer
    than the arithmetic on them.

    Returns:
        True if it was done; False if the C library is not glibc.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return (
        mallopt is not None
        and bool(mallopt(_M_MMAP_THRESHOLD, 1 << 30))
        and bool(mallopt(_M_TRIM_THRESHOLD, (1 << 31) - 1))
    )

"""Memory that the C library keeps for the next tensors."""

import ctypes
import sys

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
"""Parameters of glibc's mallopt(3)."""


def keep_freed_memory() -> bool:
    """Let glibc keep the memory of freed tensors.

    A training step frees and asks for the same few megabytes hundreds of times. Memory that was
    returned to the kernel comes back page by page, each with a fault and zeroed, which takes longer
    than the arithmetic on it.

    Returns:
        whether it was done; False where the C library is another one.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return (
        mallopt is not None
        and bool(mallopt(_M_MMAP_THRESHOLD, 1 << 30))
        and bool(mallopt(_M_TRIM_THRESHOLD, (1 << 31) - 1))
    )

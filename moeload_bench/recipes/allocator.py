"""Keep the memory that a training step frees in the process, for the next step."""

from __future__ import annotations

import ctypes

_TRIM_THRESHOLD, _MMAP_MAX = -1, -4  # glibc, malloc.h


def keep_freed_memory() -> bool:
    """Tell glibc's malloc to give no memory back to the system; return False if malloc is not glibc's.

    A step allocates and frees the same blocks as the step before. By default glibc returns large blocks at once, and
    each step pays for all of their pages again: a fifth of the CPU time of the CPU recipes. Results are the same; the
    process keeps the most memory that it ever needed.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # musl and macOS have no mallopt, Windows has no such library
        return False
    return bool(mallopt(_MMAP_MAX, 0)) and bool(mallopt(_TRIM_THRESHOLD, -1))  # -1: never

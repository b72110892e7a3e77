"""Memory that a training step freed stays with the process, for the next step."""

from __future__ import annotations

import ctypes

_TRIM_THRESHOLD, _MMAP_MAX = -1, -4  # glibc, malloc.h


def keep_freed_memory() -> bool:
    """Tell glibc's malloc to give nothing back to the system; False where malloc is another.

    A step takes and frees the same blocks as the step before. glibc hands the large ones back at once, and each step
    pays for all of their pages again: a fifth of the CPU time of the CPU recipes. Results are the same; the process
    keeps what it once needed.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # musl and macOS have none, Windows no such library
        return False
    return bool(mallopt(_MMAP_MAX, 0)) and bool(mallopt(_TRIM_THRESHOLD, -1))  # -1: never

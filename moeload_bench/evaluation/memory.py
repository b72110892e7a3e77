"""Whether the traces of a request fit in memory, said before any work starts."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from moeload_bench.errors import SuiteError
from moeload_bench.traces.parquet import decoded_bytes

GB = 1e9
MEMINFO = Path("/proc/meminfo")
LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))
"""Of the control group of a container, versions 2 and 1."""


def check_memory(paths: Mapping[str, Path], jobs: int) -> None:
    """Raise `SuiteError` when the largest trace, decoded in each of ``jobs`` processes, is more than there is here.

    That is the least they need; where the system does not say what it has, nothing is refused.
    """
    available = available_bytes()
    if available is None or not paths:
        return
    size, name = max((decoded_bytes(path), name) for name, path in paths.items())
    if size * jobs > available:
        raise SuiteError(
            f"trace {name} takes {size / GB:.2f} GB of memory in each of {jobs} processes, "
            f"{size * jobs / GB:.2f} GB in all, and {available / GB:.2f} GB are available: "
            + ("lower --jobs" if size <= available else "it needs a machine with more memory")
        )


def available_bytes() -> int | None:
    """The smaller of what the system has free and what this process's container may use; None where neither is told."""
    found = [_meminfo(), *map(_limit, LIMITS)]
    return min((value for value in found if value is not None), default=None)


def _meminfo() -> int | None:
    try:
        lines = dict(line.split(":", 1) for line in MEMINFO.read_text().splitlines())
        return int(lines["MemAvailable"].split()[0]) * 1024
    except (OSError, ValueError, KeyError, IndexError):
        return None


def _limit(path: Path) -> int | None:
    try:
        return int(path.read_text())  # "max" where there is none
    except (OSError, ValueError):
        return None

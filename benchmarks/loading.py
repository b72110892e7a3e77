"""What verified loading costs: `load_trace` against a raw pyarrow read of the same file, interleaved medians.

`compare.py` measures it.

The goal is a ratio of at most 1.5. Both sides read from a warm page cache with one thread and end with the loads as one
numpy array; `load_trace` also decodes every other column, checks all invariants and both content hashes.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import NamedTuple

import pyarrow.parquet as pq

from moeload_bench import load_trace

GOAL = 1.5


def raw_read(path: Path) -> object:
    """Read all columns, as pyarrow gives them, and the loads as an array."""
    table = pq.read_table(path, use_threads=False)
    load = table["load"].combine_chunks()
    return load.flatten().flatten().to_numpy().reshape(len(table), load.type.list_size, -1)


def interleaved(calls: list[Callable[[], object]], repeats: int) -> list[float]:
    """Return the median CPU seconds of each call; the calls take turns, so that a busy machine slows all of them."""
    taken: list[list[float]] = [[] for _ in calls]
    for _ in range(repeats):
        for call, times in zip(calls, taken, strict=True):
            start = time.process_time()
            call()
            times.append(time.process_time() - start)
    return [median(times) for times in taken]


class Loading(NamedTuple):
    """Median CPU seconds of one file: read by pyarrow, by `load_trace`, and by it without hashes and invariants."""

    raw: float
    verified: float
    unverified: float

    @property
    def ratio(self) -> float:
        return self.verified / self.raw


def compare(path: Path, repeats: int) -> Loading:
    """Measure one file."""
    calls: list[Callable[[], object]] = [
        lambda: raw_read(path),
        lambda: load_trace(path),
        lambda: load_trace(path, verify=False),
    ]
    for call in calls:
        call()
    return Loading(*interleaved(calls, repeats))

"""What verified loading costs: `load_trace` against a raw pyarrow read of the same file, interleaved medians.

    python benchmarks/loading.py [TRACE ...] [--repeats 200]

The goal is a ratio of at most 1.5. Both sides read from a warm page cache with one thread and end with the loads as one
numpy array; `load_trace` also decodes every other column, checks all invariants and both content hashes.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import pyarrow.parquet as pq

from moeload_bench import load_trace
from moeload_bench.traces.store import list_traces

GOAL = 1.5


def raw_read(path: Path) -> object:
    """All columns, as pyarrow gives them, and the loads as an array."""
    table = pq.read_table(path, use_threads=False)
    load = table["load"].combine_chunks()
    return load.flatten().flatten().to_numpy().reshape(len(table), load.type.list_size, -1)


def interleaved(calls: list[Callable[[], object]], repeats: int) -> list[float]:
    """Median CPU seconds of each call; the calls take turns, so that a busy machine slows all of them."""
    taken: list[list[float]] = [[] for _ in calls]
    for _ in range(repeats):
        for call, times in zip(calls, taken, strict=True):
            start = time.process_time()
            call()
            times.append(time.process_time() - start)
    return [median(times) for times in taken]


def compare(path: Path, repeats: int) -> dict[str, object]:
    """One file's row."""
    calls: list[Callable[[], object]] = [
        lambda: raw_read(path),
        lambda: load_trace(path),
        lambda: load_trace(path, verify=False),
    ]
    for call in calls:
        call()
    raw, verified, unverified = interleaved(calls, repeats)
    return {
        "trace": str(path),
        "megabytes": round(path.stat().st_size / 1e6, 2),
        "raw_ms": round(raw * 1e3, 2),
        "load_trace_ms": round(verified * 1e3, 2),
        "ratio": round(verified / raw, 3),
        "ratio_unverified": round(unverified / raw, 3),
    }


def main() -> int:
    """Print one JSON line per file; exit status 1 when a ratio misses the goal."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("traces", nargs="*", type=Path, help="parquet files (the traces found here, if none is given)")
    parser.add_argument("--repeats", type=int, default=200)
    arguments = parser.parse_args()
    rows = [compare(p, arguments.repeats) for p in arguments.traces or [ref.path for ref in list_traces()]]
    for row in rows:
        print(json.dumps(row))
    return int(any(float(str(row["ratio"])) > GOAL for row in rows))


if __name__ == "__main__":
    sys.exit(main())

"""Reading, replaying and scoring side by side: against fev doing the same job, and against a raw pyarrow read."""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import NamedTuple

import pyarrow.parquet as pq
from compare_common import HERE, Row, run_json, spread, table, verdict

from moeload_bench.traces.store import list_traces, load_trace

STAGES = ("load", "replay", "score")
MOST_LOADING = 1.5


def replay_row(peer: Path, quick: bool) -> Row:
    """Replay and score against fev, each in a process of its own, taking turns."""
    layers, steps, windows = (1, 4000, 2) if quick else (16, 20000, 10)
    with tempfile.TemporaryDirectory() as folder:
        trace, data = f"{folder}/trace.parquet", f"{folder}/fev"
        replay, peers = [sys.executable, HERE / "replay_job.py"], [peer, HERE / "peer_jobs.py"]
        run_json([*replay, "data", trace, "--layers", layers, "--steps", steps])
        run_json([*peers, "fev-data", data, "--series", layers * 64, "--steps", steps])
        ours, theirs, decoding = [], [], []
        for _ in range(2 if quick else 4):
            decoding.append(run_json([*replay, "decode", trace])["decode"])
            ours.append(run_json([*replay, "run", trace, "--windows", windows]))
            theirs.append(run_json([*peers, "fev", data, "--windows", windows]))
    ratios = [sum(b[s] for s in STAGES) / sum(a[s] for s in STAGES) for a, b in zip(ours, theirs, strict=True)]
    peaks = [max(job["peak_mb"] for job in side) / 1024 for side in (ours, theirs)]
    stages = ", ".join(
        f"{stage} {median(job[stage] for job in ours):.2f} against {median(job[stage] for job in theirs):.2f} s"
        for stage in STAGES
    )
    return Row(
        f"replay and score, {layers * 64:,} series x {steps:,} steps x {windows} origins, H = 1,000, naive, "
        "against fev",
        "20 times; peak 0.5 GB",
        f"{spread(ratios)} times ({stages}; of our loading {median(decoding):.2f} s is pyarrow decoding the file); "
        f"peak {peaks[0]:.2f} GB against {peaks[1]:.2f} GB",
        verdict(median(ratios) >= 20 and peaks[0] <= 0.5),
    )


def loading_row(quick: bool) -> tuple[Row, list[str]]:
    """`load_trace` against pyarrow for every trace found here: the line of goals, and the table of files."""
    refs = list_traces()
    found = {ref.id: read_times(ref.path, 2 if quick else 50) for ref in refs}
    ratios = [one.ratio for one in found.values()]
    rows = [
        [f"`{ref.id}`", f"{round(ref.path.stat().st_size / 1e6, 2)}", f"{round(1e3 * one.raw, 2)}",
         f"{round(1e3 * one.verified, 2)}", f"{round(one.ratio, 3)}", f"{round(one.unverified / one.raw, 3)}"]
        for ref, one in zip(refs, found.values(), strict=True)
    ]  # fmt: skip
    head = ["trace", "MB on disk", "pyarrow, ms", "`load_trace`, ms", "ratio", "without hashes and invariants"]
    text = (
        "CPU time, one thread, the file in the page cache, medians of calls that take turns. "
        "`load_trace` also makes an array of every column, checks all invariants and both hashes. A row is a trace: "
        "less is better."
    )
    row = Row(
        "`load_trace` against a raw pyarrow read of the same file",
        "at most 1.5 times",
        f"{spread(ratios)} times over {len(ratios)} files",
        verdict(max(ratios) <= MOST_LOADING),
    )
    return row, ["## Loading", "", text, "", *table(head, rows), ""]


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


def read_times(path: Path, repeats: int) -> Loading:
    """Measure one file."""
    calls: list[Callable[[], object]] = [
        lambda: raw_read(path),
        lambda: load_trace(path),
        lambda: load_trace(path, verify=False),
    ]
    for call in calls:
        call()
    return Loading(*interleaved(calls, repeats))

"""Reading, replaying and scoring side by side: against fev doing the same job, and against a raw pyarrow read.

Our side of fev's job runs in a process of its own:

python compare_replay.py TRACE.parquet WINDOWS      prints CPU seconds of each stage and the peak, as one JSON object
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import numpy as np
import pyarrow.parquet as pq
from compare_common import HERE, Row, run_json, spread, verdict
from peer_jobs import HORIZON, peak_mb

from moeload_bench.harness.replay import follow, row_of, window_rows
from moeload_bench.isolation.targets import parse_target
from moeload_bench.scoring.scores import score_forecast
from moeload_bench.traces.lookup import list_traces, load_trace
from moeload_bench.traces.store import read_trace, write_trace
from moeload_bench.traces.trace import Trace, shares

STAGES = ("load", "replay", "score")
MOST_LOADING = 1.5


def replay_row(peer: Path, quick: bool) -> Row:
    """Replay and score against fev, each in a process of its own, taking turns."""
    layers, steps, windows = (1, 4000, 2) if quick else (16, 20000, 10)
    with tempfile.TemporaryDirectory() as folder:
        trace, data = Path(folder, "trace.parquet"), f"{folder}/fev"
        peers = [peer, HERE / "peer_jobs.py"]
        write_data(trace, layers, steps)
        run_json([*peers, "fev-data", data, "--series", layers * 64, "--steps", steps])
        ours, theirs = [], []
        for _ in range(2 if quick else 4):
            ours.append(run_json([sys.executable, __file__, trace, windows]))
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
        f"{spread(ratios)} times ({stages}); peak {peaks[0]:.2f} GB against {peaks[1]:.2f} GB",
        verdict(median(ratios) >= 20 and peaks[0] <= 0.5),
    )


def loading_row(quick: bool) -> Row:
    """`load_trace` against pyarrow for every trace found here."""
    ratios = [loading_ratio(ref.path, 2 if quick else 50) for ref in list_traces()]
    return Row(
        "`load_trace` against a raw pyarrow read of the same file",
        "at most 1.5 times",
        f"{spread(ratios)} times over {len(ratios)} files",
        verdict(max(ratios) <= MOST_LOADING),
    )


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


def loading_ratio(path: Path, repeats: int) -> float:
    """Return the CPU time of `load_trace`, with its hashes and invariants, over that of pyarrow for one file."""
    calls: list[Callable[[], object]] = [lambda: raw_read(path), lambda: load_trace(path)]
    for call in calls:
        call()
    raw, verified = interleaved(calls, repeats)
    return verified / raw


def write_data(path: Path, layers: int, steps: int, experts: int = 64) -> None:
    """Write a synthetic trace of 64 tokens per expert and step."""
    rng = np.random.default_rng(0)
    p_LE = rng.dirichlet(np.ones(experts) * 4, size=layers)
    load = rng.multinomial(64 * experts, p_LE, size=(steps, layers))
    write_trace(Trace.from_arrays(load, top_k=1), path, overwrite=True)


def replay_job(path: Path, windows: int) -> dict[str, float]:
    """Read and verify, replay `last_value`, score every metric at every window: CPU seconds of each stage."""
    start = time.process_time()
    trace = read_trace(path)
    loaded = time.process_time()
    scoring = replay_and_score(trace, [trace.steps - HORIZON * (i + 1) for i in reversed(range(windows))], HORIZON)
    end = time.process_time()
    return {"load": loaded - start, "replay": end - loaded - scoring, "score": scoring, "peak_mb": peak_mb()}


def replay_and_score(trace: Trace, origins: list[int], horizon: int) -> float:
    """Replay `last_value` in this process; CPU seconds of scoring."""
    scoring = 0.0
    with follow(parse_target("last_value"), trace, seed=0, level="none") as feed:
        for answer in feed.answers(origins, (horizon,)):
            before = time.process_time()
            assert answer.forecast is not None, answer.failure
            share_HLE = shares(trace.load_SLE[window_rows(trace, row_of(trace, answer.origin), horizon)])
            score_forecast(answer.forecast, share_HLE, (horizon,))
            scoring += time.process_time() - before
    return scoring


if __name__ == "__main__":
    print(json.dumps(replay_job(Path(sys.argv[1]), int(sys.argv[2]))))

"""Our side of the comparison with fev: the same numbers of series, steps and windows. Prints one JSON object.

python replay_job.py data TRACE.parquet --layers 16 --experts 64 --steps 20000
python replay_job.py run TRACE.parquet --windows 10
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from peer_jobs import peak_mb

from moeload_bench.harness.replay import follow, row_of, window_rows
from moeload_bench.isolation.targets import parse_target
from moeload_bench.scoring.scores import score_forecast
from moeload_bench.traces.store import read_trace, write_trace
from moeload_bench.traces.trace import Trace, shares

HORIZON = 1000


def write_data(path: Path, layers: int, experts: int, steps: int) -> dict[str, float]:
    """Write a synthetic trace of 64 tokens per expert and step."""
    rng = np.random.default_rng(0)
    p_LE = rng.dirichlet(np.ones(experts) * 4, size=layers)
    load = rng.multinomial(64 * experts, p_LE, size=(steps, layers))
    write_trace(Trace.from_arrays(load, top_k=1), path, overwrite=True)
    return {}


def run(path: Path, windows: int) -> dict[str, float]:
    """Read and verify, replay `last_value`, score every metric at every window."""
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


def decode(path: Path) -> dict[str, float]:
    """pyarrow alone, one thread: what of the loading is decoding the file."""
    start = time.process_time()
    with pq.ParquetFile(path, memory_map=True) as file:
        file.read(use_threads=False)
    return {"decode": time.process_time() - start}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("job", choices=["data", "run", "decode"])
    parser.add_argument("path", type=Path)
    parser.add_argument("--layers", type=int, default=16)
    parser.add_argument("--experts", type=int, default=64)
    parser.add_argument("--steps", type=int, default=20000)
    parser.add_argument("--windows", type=int, default=10)
    args = parser.parse_args()
    if args.job == "data":
        out = write_data(args.path, args.layers, args.experts, args.steps)
    else:
        out = run(args.path, args.windows) if args.job == "run" else decode(args.path)
    print(json.dumps(out))


if __name__ == "__main__":
    main()

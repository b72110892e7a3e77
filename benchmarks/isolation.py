"""What isolation costs: start-up and time per call at each level, measured in one run.

    python benchmarks/isolation.py [--repetitions 7] [--out benchmarks/isolation.json]
    python -m leaderboard pages docs/methods/isolation.md    the table made from that file

Levels alternate within each repetition, so that a busy machine hits them alike. Kept are medians.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path

import numpy as np

from moeload_bench.forecaster import ForecastRequest, StepBlock, TraceInfo
from moeload_bench.isolation.hosts import LEVELS, Level, level_available, open_host
from moeload_bench.isolation.targets import parse_target

SHAPES = {(6, 8): 40, (128, 128): 10}
"""(layers, experts), and how often a forecaster is called."""
HORIZONS = (10, 100, 1000)
OBSERVED = 10
"""Steps of a call of `observe`."""


def measure(layers: int, experts: int, calls: int, level: Level) -> tuple[float, float, float]:
    """Return milliseconds of start-up, of one observe and of one forecast of `sw_avg`."""
    load = np.random.default_rng(0).integers(0, 1000, size=(OBSERVED, layers, experts))
    info = TraceInfo(layers, experts, 1, tuple(range(layers)), None, 1, "none", 0.0, 0)
    observe, forecast = [], []
    start = time.perf_counter()
    with open_host(parse_target("sw_avg"), info, seed=0, level=level) as host:
        startup = time.perf_counter() - start
        for first in range(0, OBSERVED * calls, OBSERVED):
            block = StepBlock(np.arange(first, first + OBSERVED), load, load.sum(axis=2))
            start = time.perf_counter()
            host.observe(block)
            shown = time.perf_counter()
            host.forecast(ForecastRequest(first + OBSERVED, HORIZONS[-1], HORIZONS))
            observe.append(shown - start)
            forecast.append(time.perf_counter() - shown)
    return 1e3 * startup, 1e3 * statistics.median(observe), 1e3 * statistics.median(forecast)


def main() -> None:
    """Print a row per shape and level, and write them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=7)
    parser.add_argument("--out", type=Path, help="the file that the page's table is made from")
    given = parser.parse_args()
    levels = [level for level in LEVELS if level_available(level) is None]
    rows = []
    for (layers, experts), calls in SHAPES.items():
        times = [[measure(layers, experts, calls, level) for level in levels] for _ in range(given.repetitions)]
        for level, medians in zip(levels, np.median(times, axis=0), strict=True):
            milliseconds = dict(zip(("start_up", "observe", "forecast"), map(float, medians), strict=True))
            rows.append({"shape": f"{layers} x {experts}", "level": level, **milliseconds})
            print(rows[-1], flush=True)
    if given.out is not None:
        given.out.write_text(json.dumps({"repetitions": given.repetitions, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()

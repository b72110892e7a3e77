"""How cost grows with steps, layers, experts and origins; the harness beside the forecasters.

Axis letters: S steps, L layers, E experts.
"""

from __future__ import annotations

import time

import numpy as np
from compare_common import observe_and_forecast, table
from replay_job import replay_and_score

from moeload_bench.traces.trace import Trace

STREAMED = "arima@order=[1,1,1]"
FITTED = "arima@order=[5,1,5]"
TARGETS = ("last_value", "sw_avg", "sw_avg@window=1000", "ema", STREAMED, FITTED)
MOST_CELLS = {STREAMED: 100_000_000}
"""S x L x E that are affordable: about 15 s."""
MOST_SERIES = {FITTED: 200}
HARNESS_CELLS = 30_000_000
"""S x L x E of loads in memory at once."""
HORIZON = 500

GROWTH = (
    "Nanoseconds per step, layer and expert: all steps observed in blocks of 250, and one forecast at the end. "
    f"Harness: steps replayed to `last_value` in this process, its forecast of {HORIZON} steps scored. Columns that "
    "stay level, or fall where a fixed cost is spread, mean linear growth ((5,1,5) is fitted on 1,000 steps, however "
    "many there are). -: more than a quarter of a minute, or more memory than a table is worth. "
    "A row is a size of run, a column a forecaster: less is better."
)
ORIGINS = (
    "CPU milliseconds per forecast when there are more origins in 5,000 steps of 12 x 16 series; of the harness, per "
    "origin scored. (5,1,5) is fitted when 1,000 more steps were seen, so that its cost is spread over more forecasts. "
    "A row is a number of origins: less is better."
)


def growth(quick: bool) -> list[str]:
    """Return the section of the page."""
    sizes = [(2, 4, (1000, 2000)), (4, 4, (1000,))] if quick else [
        (6, 8, (1000, 10_000, 50_000)), (12, 16, (1000, 10_000, 50_000)), (12, 128, (1000, 5000, 50_000)),
        (128, 128, (1000, 5000, 50_000)),
    ]  # fmt: skip
    for target in TARGETS:
        observe_and_forecast(target, 2, 4, 1000)  # compiles
    rows = []
    for L, E, lengths in sizes:
        for S in lengths:
            cells = [_cell(target, L, E, S) for target in TARGETS]
            rows.append([f"{L} x {E}", f"{S:,}", *cells, _harness_cell(L, E, S)])
    head = ["layers x experts", "steps", *(f"`{target}`" for target in TARGETS), "harness"]
    lines = ["## How cost grows", "", GROWTH, "", *table(head, rows), ""]
    L, E, S, counts = (2, 4, 1000, (1, 4)) if quick else (12, 16, 5000, (1, 5, 20))
    rows = [
        [f"{count}", *(f"{observe_and_forecast(t, L, E, S, count)[1] / count * 1e3:.2f}" for t in TARGETS),
         f"{(_harness(L, E, S, count) - _harness(L, E, S, 0)) / count * 1e3:.2f}"]
        for count in counts
    ]  # fmt: skip
    return [*lines, ORIGINS, "", *table(["origins", *head[2:]], rows), ""]


def _cell(target: str, L: int, E: int, S: int) -> str:
    series = L * E
    if series > MOST_SERIES.get(target, series) or S * series > MOST_CELLS.get(target, S * series):
        return "-"
    return f"{sum(observe_and_forecast(target, L, E, S)) / (S * L * E) * 1e9:.1f}"


def _harness_cell(L: int, E: int, S: int) -> str:
    return "-" if S * L * E > HARNESS_CELLS else f"{_harness(L, E, S, 1) / (S * L * E) * 1e9:.1f}"


def _harness(L: int, E: int, S: int, origins: int) -> float:
    load = np.random.default_rng(0).poisson(100, (250, L, E))
    trace = Trace.from_arrays(np.tile(load, (-(-S // 250), 1, 1))[:S])
    last = S - HORIZON
    at = sorted({last * (i + 1) // max(1, origins) for i in range(max(1, origins))})
    start = time.process_time()
    replay_and_score(trace, at, HORIZON, scored=origins > 0)
    return time.process_time() - start

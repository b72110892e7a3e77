"""Lines that stand beside a table of results: what has none, what failed, who served best."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from moeload_bench.results.grid import result_grid
from moeload_bench.results.record import Results
from moeload_bench.results.rows import has_skill
from moeload_bench.results.statistics import EXACT
from moeload_bench.scoring.scores import METRICS
from moeload_bench.suites.suite import STATES


def absence(results: Results, metric: str) -> str:
    """Why there is no table of a metric that exists: nobody gave quantiles, or the traces have no such shape."""
    if any(spec.name == metric and spec.needs_quantiles for spec in METRICS):
        return f"no table of {metric}: it needs quantiles, and no forecaster gave any"
    there = sorted({name for r in results for run in r.runs for task in run.tasks for name in task.metrics})
    return f"no table of {metric}: these results hold {', '.join(there)}"


def failure_lines(results: Results) -> Iterator[str]:
    """One line per distinct failure: forecaster, trace, how many tasks, the first origin, the reason."""
    grouped: dict[tuple[str, str, str], list[int]] = {}
    for name, trace, task in results.failures:
        grouped.setdefault((name, trace, task.failure or ""), []).append(task.origin)
    for (name, trace, reason), origins in grouped.items():
        yield f"failed: {name} on {trace}, {len(origins)} task(s) from origin {min(origins)}: {reason}"


def best_lines(results: Results, metric: str) -> Iterator[str]:
    """Which forecaster served best in each state: the least mean over horizons of the ratio to the best one there.

    Horizons at which nothing has a value are left out; a metric of which no ratio can be taken gives way to the first.
    """
    metric = metric if has_skill(metric) else METRICS[0].name
    grid = result_grid(results, metric)
    for state in STATES:
        here = [row for row in grid.rows if row.state == state] if grid else []
        if not here:
            if state != "mixed":
                yield f"{state}: no origin of the trace is in this state"
            continue
        value_RK = np.array([[np.inf if value is None else value for value in row.value_K] for row in here])
        value_RK = value_RK[:, np.isfinite(value_RK).any(axis=0)]
        if not value_RK.size:
            yield f"{state}: nothing could be scored ({metric} has no value at any horizon)"
            continue
        value_RK = np.maximum(value_RK, EXACT)
        ratio_R = (value_RK / value_RK.min(axis=0)).mean(axis=1)
        best = [row.forecaster for row, ratio in zip(here, ratio_R, strict=True) if ratio == ratio_R.min()]
        yield f"{state}: {', '.join(best)} served best ({metric}, horizons weighted alike)"

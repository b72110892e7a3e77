"""Measure what is left to forecast in each run: errors over the floor, and plans beside a reaction in the same step.

A replay takes some seconds for each forecaster, so rows are kept by the hash of a run's data in forecasts.csv.

Axis letters: K horizons.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from moeload_bench.harness.evaluate import evaluate
from moeload_bench.placement.plans import default_shape
from moeload_bench.scoring.catalogue import PRIMARY
from moeload_bench.scoring.floors import trace_floors
from moeload_bench.suites.suite import Suite, SuiteTrace
from moeload_bench.traces.store import data_sha256
from moeload_bench.traces.trace import Trace

FORECASTS = Path(__file__).with_name("forecasts.csv")
FORECASTERS = ("adaptive", "online.guarded", "uniform")
HORIZONS = (1, 10, 100)
ORIGINS: Mapping[str, range] = {
    "before": range(500, 901, 10),
    "after": range(1000, 1100, 10),
    "late": range(1200, 1401, 10),
}
"""Origins by window: before the switch at step 1,000, soon after it, and late. The same for every run."""
FLOOR = "floor_batch"


def forecast_rows(trace: Trace) -> Iterator[dict[str, Any]]:
    """Yield by window, horizon and forecaster: mean error, floor, load of the busiest device, and that of reacting.

    ``imbalance``: the busiest device over the mean under a plan from the forecast, mean over the steps of the horizon;
    ``reaction``: the same under the plan that the same planner makes from the true mean of these steps, so at a horizon
    of one step that of reacting within the step. Both at one expert-parallel size, without spare slots.
    """
    windows = {
        name: kept for name, all_ in ORIGINS.items() if (kept := [o for o in all_ if o + HORIZONS[-1] <= trace.steps])
    }
    origins = tuple(origin for kept in windows.values() for origin in kept)
    shape, sha256 = default_shape(trace.num_experts), data_sha256(trace)
    assert shape is not None, "these recipes have 64 experts"
    tasks = Suite(
        name="balancing",
        horizons=HORIZONS,
        traces=(SuiteTrace(id=trace.id, data_sha256=sha256, mixed=origins),),
    )
    table = evaluate(FORECASTERS, tasks, traces=[trace], level="none", shapes=(shape.name,)).table
    table["reaction"] = table[f"imbalance@{shape.name}"] / (1 + table[f"regret@{shape.name}"])
    given = {name: [np.asarray(kept, dtype=np.int64)] * len(HORIZONS) for name, kept in windows.items()}
    floors = trace_floors(trace, None, HORIZONS, given=given).by_state(len(HORIZONS))
    for name, kept in windows.items():
        in_window = table[table["origin"].isin(kept)]
        for (forecaster, horizon), rows in in_window.groupby(["forecaster", "horizon"], sort=False):
            K = HORIZONS.index(horizon)
            yield {
                "run": trace.id,
                "data_sha256": sha256,
                "window": name,
                "forecaster": forecaster,
                "horizon": horizon,
                "error": rows[PRIMARY].mean(),
                "floor": floors[name][FLOOR][PRIMARY][K],
                "imbalance": rows[f"imbalance@{shape.name}"].mean(),
                "reaction": rows["reaction"].mean(),
            }


def known_rows(traces: list[Trace], path: Path = FORECASTS) -> pd.DataFrame:
    """Return the rows of these runs: those of the file whose data are the same, and made now where there is none."""
    stored = pd.read_csv(path) if path.is_file() else pd.DataFrame({"run": [], "data_sha256": []})
    frames = []
    for trace in traces:
        rows = stored[(stored["run"] == trace.id) & (stored["data_sha256"] == data_sha256(trace))]
        frames.append(rows if len(rows) else _rounded(pd.DataFrame(forecast_rows(trace))))
    return pd.concat(frames, ignore_index=True)


def _rounded(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the numbers as the file keeps them, so that a page does not depend on whether they were read."""
    numbers = rows.select_dtypes("float").columns
    return rows.assign(**{name: [float(f"{value:.6g}") for value in rows[name]] for name in numbers})

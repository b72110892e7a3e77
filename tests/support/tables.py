"""Results made of numbers that a test chooses, without running a forecaster."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from moeload_bench.environment import environment
from moeload_bench.results.columns import FACT_KEYS, RUN_KEYS
from moeload_bench.results.entry import Entry, SuiteRecord
from moeload_bench.results.results import Results

RUN = {**dict.fromkeys(RUN_KEYS, 1.0), "data_sha256": "", "counts": "{}", "forecasts_sha256": "", "accounting": None}
Errors = Sequence[Sequence[float]]
"""By task, the errors at each horizon; of all runs, one after the other."""


def made_entry(name: str, horizons: Sequence[int], target: str | None = None, suite: str = "own") -> Entry:
    """Return what describes a forecaster's run over a suite that the package does not know."""
    return Entry(
        name=name,
        target=target or name,
        source_sha256="0" * 64,
        suite=SuiteRecord(name=suite, sha256="1" * 64, horizons=tuple(horizons), reference="sw_avg"),
        scoring_version=2,
        isolation="none",
        seed=0,
        environment=environment(),
    )


def made_results(
    errors: Mapping[str, Errors],
    traces: Sequence[str] | None = None,
    *,
    states: Sequence[str] | None = None,
    crossing: Sequence[Sequence[bool]] | None = None,
    metric: str = "window_tv",
    horizons: Sequence[int] = (1, 10),
    targets: Mapping[str, str] | None = None,
    stratum: Mapping[str, str] | None = None,
    **others: Mapping[str, Errors],
) -> Results:
    """Return results with these errors by forecaster; ``traces``, ``states`` and ``crossing`` are of each task.

    ``others``: further metrics, `imbalance_half` for imbalance@half.
    """
    tasks = len(next(iter(errors.values())))
    traces = traces or ["own/test/seed0"] * tasks
    frames = []
    for name in errors:
        frame = pd.DataFrame(
            {
                "forecaster": name,
                "trace": np.repeat(traces, len(horizons)),
                "recipe": np.repeat([trace.split("/")[0] for trace in traces], len(horizons)),
                "stratum": np.repeat([(stratum or {}).get(trace) for trace in traces], len(horizons)),
                "state": np.repeat(states or ["stable"] * tasks, len(horizons)),
                "crossing": np.ravel(crossing) if crossing is not None else False,
                "origin": np.repeat(np.arange(tasks), len(horizons)),
                "horizon": np.tile(horizons, tasks),
                "failure": None,
            }
        )
        for column, values in {metric: errors, **others}.items():
            frame[column.replace("_half", "@half")] = np.ravel(np.asarray(values[name], dtype=np.float64))
        frames.append(frame.assign(**RUN))
    entries = {name: made_entry(name, horizons, (targets or {}).get(name)) for name in errors}
    return Results(entries, pd.concat(frames, ignore_index=True), pd.DataFrame(columns=list(FACT_KEYS)))

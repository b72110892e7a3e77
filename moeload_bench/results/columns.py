"""The one table of results: which columns it has, and how what workers return becomes rows.

Three frames. Rows: one per forecaster, trace, origin and horizon. Layers: one per forecaster, trace, state, layer and
horizon, means over the state's origins. Costs: one per forecaster and trace. Facts of traces are a fourth one: one per
trace, state and horizon.

A metric without a value is NaN. A failed task has its reason in ``failure``, and the metrics that a failure scores.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from moeload_bench.results.run_result import CostResult, RunResult
from moeload_bench.results.trace_facts import TraceFacts
from moeload_bench.scoring.floors import FLOOR_NAMES

if TYPE_CHECKING:
    import pandas as pd

TEXTS = ("forecaster", "trace", "recipe", "stratum", "state", "failure")
COST_TEXTS = ("data_sha256", "counts", "forecasts_sha256", "accounting")
ROW_KEYS = ("forecaster", "trace", "recipe", "stratum", "state", "crossing", "origin", "horizon", "failure")
LAYER_KEYS = ("forecaster", "trace", "state", "layer", "horizon")
COST_KEYS = (
    *("forecaster", "trace", "data_sha256", "layers", "experts"),
    *CostResult.model_fields,
    *("counts", "forecasts_sha256", "accounting"),
)
FACT_KEYS = ("trace", "state", "horizon")


def row_frame(
    runs: Mapping[str, Sequence[RunResult]], horizons: Sequence[int], strata: Mapping[str, str]
) -> pd.DataFrame:
    """Return the rows of forecasters' runs; ``strata`` has the stratum of a trace that is in one."""
    return _frame(_rows(runs, horizons, strata), ROW_KEYS)


def layer_frame(runs: Mapping[str, Sequence[RunResult]], horizons: Sequence[int]) -> pd.DataFrame:
    """Return the means by layer of forecasters' runs."""
    return _frame(_layers(runs, horizons), LAYER_KEYS)


def cost_frame(runs: Mapping[str, Sequence[RunResult]]) -> pd.DataFrame:
    """Return what forecasters cost and counted; ``counts`` is JSON, events by name."""
    import pandas as pd

    records = [
        {
            "forecaster": name,
            "trace": run.trace,
            "data_sha256": run.data_sha256,
            "layers": run.layers,
            "experts": run.experts,
            **run.cost.model_dump(),
            "counts": json.dumps(run.counts, sort_keys=True),
            "forecasts_sha256": run.forecasts_sha256,
            "accounting": run.accounting,
        }
        for name, found in runs.items()
        for run in found
    ]
    return pd.DataFrame(records, columns=list(COST_KEYS))


def fact_frame(facts: Mapping[str, TraceFacts], horizons: Sequence[int]) -> pd.DataFrame:
    """Return the floors of traces, `FLOOR.METRIC`, and in column `FLOOR` how far each can be trusted."""
    records = [
        {
            "trace": trace,
            "state": state,
            "horizon": horizon,
            **found.floor_marks,
            **{
                f"{floor}.{metric}": values[k]
                for floor, metrics in floors.items()
                for metric, values in metrics.items()
            },
        }
        for trace, found in facts.items()
        for state, floors in found.floors.items()
        for k, horizon in enumerate(horizons)
    ]
    return _frame(iter(records), FACT_KEYS)


def metric_columns(table: pd.DataFrame) -> list[str]:
    """Return the metrics of rows or of means by layer."""
    keys = {*ROW_KEYS, *LAYER_KEYS}
    return [str(name) for name in table.columns if name not in keys]


def _rows(
    runs: Mapping[str, Sequence[RunResult]], horizons: Sequence[int], strata: Mapping[str, str]
) -> Iterator[dict[str, Any]]:
    for name, found in runs.items():
        for run in found:
            for task in run.tasks:
                for k, horizon in enumerate(horizons):
                    yield {
                        "forecaster": name,
                        "trace": run.trace,
                        "recipe": run.recipe,
                        "stratum": strata.get(run.trace),
                        "state": task.state,
                        "crossing": task.crossing[k],
                        "origin": task.origin,
                        "horizon": horizon,
                        "failure": task.failure,
                        **{metric: values[k] for metric, values in task.metrics.items()},
                    }


def _layers(runs: Mapping[str, Sequence[RunResult]], horizons: Sequence[int]) -> Iterator[dict[str, Any]]:
    for name, found in runs.items():
        for run in found:
            for state, metrics in run.per_layer.items():
                for k, horizon in enumerate(horizons):
                    for layer in range(run.layers):
                        means = {metric: values[k][layer] for metric, values in metrics.items()}
                        yield {
                            "forecaster": name, "trace": run.trace, "state": state, "layer": layer, "horizon": horizon,
                        } | means  # fmt: skip


def _frame(records: Iterator[dict[str, Any]], keys: Sequence[str]) -> pd.DataFrame:
    """Return a frame with the keys first, then the numbers by name."""
    import pandas as pd

    frame = pd.DataFrame(records)
    others = sorted(str(name) for name in frame.columns if name not in keys)
    frame = frame.reindex(columns=[*keys, *others])
    numbers = [name for name in others if name not in FLOOR_NAMES]
    frame[numbers] = frame[numbers].astype("float64")
    return frame

"""The one table of results: which columns it has.

Three frames. Rows: one per forecaster, trace, origin and horizon. Layers: one per forecaster, trace, state, layer and
horizon, means over the state's origins. Costs: one per forecaster and trace. Facts of traces are a fourth one: one per
trace, state and horizon.

A metric without a value is NaN. A failed task has its reason in ``failure``, and the metrics that a failure scores.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pydantic import Field

from moeload_bench.results.trace_facts import TraceFacts
from moeload_bench.schema import Record
from moeload_bench.scoring.floors import FLOOR_NAMES

if TYPE_CHECKING:
    import pandas as pd


class CostResult(Record):
    """What a run cost, measured by the harness. Seconds; bytes; None where it could not be measured."""

    observe_wall_s: float = 0.0
    observe_cpu_s: float | None = None
    forecast_wall_s: float = 0.0
    forecast_cpu_s: float | None = None
    startup_wall_s: float = 0.0
    observed_rows: int = 0
    forecasts: int = 0
    peak_memory_bytes: int | None = None
    training_step_s: float | None = Field(default=None, description="median recorded training time of a row")


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
    return number_frame(records, FACT_KEYS)


def metric_columns(table: pd.DataFrame) -> list[str]:
    """Return the metrics of rows or of means by layer."""
    keys = {*ROW_KEYS, *LAYER_KEYS}
    return [str(name) for name in table.columns if name not in keys]


def number_frame(records: Iterable[dict[str, Any]], keys: Sequence[str]) -> pd.DataFrame:
    """Return a frame with the keys first, then the numbers by name."""
    import pandas as pd

    frame = pd.DataFrame(records)
    others = sorted(str(name) for name in frame.columns if name not in keys)
    frame = frame.reindex(columns=[*keys, *others])
    numbers = [name for name in others if name not in FLOOR_NAMES]
    frame[numbers] = frame[numbers].astype("float64")
    return frame

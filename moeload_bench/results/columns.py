"""The one table of results: its columns, and the two that stand beside it.

A result is rows from the moment it is made: a worker returns dictionaries of these columns, of three kinds. A row with
an ``origin`` is one forecast at one horizon; it repeats what its run as a whole cost (RUN_KEYS). A row with a ``layer``
is a layer's mean over the origins of a state. A row with neither is what noise alone costs on a trace.

A metric without a value is NaN, None in a row. A failed task has its reason in ``failure``, and the metrics that a
failure scores.
"""

from __future__ import annotations

import itertools
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pydantic import Field

from moeload_bench.results.trace_facts import TraceFacts
from moeload_bench.schema import Schema
from moeload_bench.scoring.floors import FLOOR_NAMES
from moeload_bench.suites.suite import CROSSING, STATES

if TYPE_CHECKING:
    import pandas as pd

Row = dict[str, Any]


class CostResult(Schema):
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
RUN_KEYS = ("data_sha256", "layers", "experts", *CostResult.model_fields, "counts", "forecasts_sha256", "accounting")
"""Columns that repeat in all rows of a run, such as `observe_cpu_s`. ``counts``: what the forecaster counted, as JSON.
``accounting``: how memory and CPU time of its processes were counted and limited.
"""
COST_KEYS = ("forecaster", "trace", *RUN_KEYS)
FACT_KEYS = ("trace", "state", "horizon")
MARKS = ("approximate", "exact", "not given")
"""How far a floor can be trusted, the weakest first."""


def fact_rows(trace: str, facts: TraceFacts, horizons: Sequence[int]) -> Iterator[Row]:
    """Yield the floors of a trace, `FLOOR.METRIC`, and in column `FLOOR` how far each can be trusted."""
    for state, floors in facts.floors.items():
        for k, horizon in enumerate(horizons):
            values = {
                f"{floor}.{metric}": value_K[k]
                for floor, metrics in floors.items()
                for metric, value_K in metrics.items()
            }
            yield {"trace": trace, "state": state, "horizon": horizon, **facts.floor_marks, **values}


def fact_frame(facts: Mapping[str, TraceFacts], horizons: Sequence[int]) -> pd.DataFrame:
    """Return the floors of traces as a frame; see `fact_rows`."""
    rows = (fact_rows(trace, of_trace, horizons) for trace, of_trace in facts.items())
    return number_frame(itertools.chain.from_iterable(rows), FACT_KEYS)


def metric_columns(table: pd.DataFrame) -> list[str]:
    """Return the metrics of rows or of means by layer."""
    keys = {*ROW_KEYS, *LAYER_KEYS, *RUN_KEYS}
    return [str(name) for name in table.columns if name not in keys]


def run_costs(table: pd.DataFrame) -> pd.DataFrame:
    """Return the costs of runs: a row per forecaster and trace of a table."""
    return table.drop_duplicates(["forecaster", "trace"])[list(COST_KEYS)].reset_index(drop=True)


def states_of(table: pd.DataFrame) -> list[str]:
    """Return the states that have tasks, in the order of training, crossing last."""
    present = {*table["state"].unique(), *([CROSSING] if table["crossing"].any() else [])}
    return [state for state in (*STATES, CROSSING) if state in present]


def failed_tasks(table: pd.DataFrame) -> pd.DataFrame:
    """Return the tasks that failed: forecaster, trace, state, origin, failure."""
    columns = ["forecaster", "trace", "state", "origin", "failure"]
    rows = table.loc[table["failure"].notna(), columns]
    return rows.drop_duplicates(["forecaster", "trace", "origin"]).reset_index(drop=True)


def total_counts(table: pd.DataFrame, forecaster: str) -> dict[str, int]:
    """Return what a forecaster counted itself, over all traces."""
    costs = run_costs(table)
    total = Counter[str]()
    for text in costs.loc[costs["forecaster"] == forecaster, "counts"]:
        total.update(json.loads(text))
    return dict(total)


def floor_marks(facts: pd.DataFrame) -> dict[str, str]:
    """Return how far each floor can be trusted in all traces: the weakest of exact, approximate, not given."""
    marks = {floor: set(facts[floor].dropna()) for floor in FLOOR_NAMES if floor in facts}
    return {floor: min(given, key=MARKS.index) for floor, given in marks.items() if given}


def number_frame(rows: Iterable[Row], keys: Sequence[str], last: Sequence[str] = ()) -> pd.DataFrame:
    """Return a frame with the keys first, then the numbers by name, then the ``last`` columns."""
    import pandas as pd

    frame = pd.DataFrame(rows)
    others = sorted(str(name) for name in frame.columns if name not in {*keys, *last})
    frame = frame.reindex(columns=[*keys, *others, *last])
    numbers = [name for name in others if name not in FLOOR_NAMES]
    frame[numbers] = frame[numbers].astype("float64")
    return frame

"""What holds of every row of a table of results, whoever wrote it: names, states, horizons, numbers, and once each."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from moeload_bench.errors import counted, first_ten, short
from moeload_bench.names import entry_problem, look_alike, name_problem
from moeload_bench.results.columns import FACT_KEYS, LAYER_KEYS, CostResult, metric_columns
from moeload_bench.scoring.catalogue import least_value
from moeload_bench.scoring.floors import FLOOR_NAMES
from moeload_bench.suites.suite import CROSSING, STATES
from moeload_bench.traces.meta import STRATA

if TYPE_CHECKING:
    import pandas as pd

ROUNDING = 1e-6
"""How far below its least a value may lie: metrics are kept to 24 bits."""
COUNTED = ("layers", "experts", *CostResult.model_fields)
TASK_KEYS = ("forecaster", "trace", "origin", "horizon")
WHOLE = ("origin", "horizon", "layer")


def entry_problems(names: Sequence[str]) -> Iterator[str]:
    """Say which names cannot be those of entries, or look like another one's."""
    yield from (problem for name in names if (problem := entry_problem(name)) is not None)
    twice = next((name for i, name in enumerate(names) if name in names[:i]), None)
    if twice is not None:
        yield f"two forecasters are called {short(twice)}, expected names of their own: results go by name"
    if (pair := look_alike(names)) is not None:
        yield f"the name {short(pair[1])} is too like {short(pair[0])}, expected names that cannot be confused"


def table_problems(table: pd.DataFrame, horizons: Collection[int]) -> Iterator[str]:
    """Say what is wrong with the rows of forecasts of entries on a suite of these horizons."""
    yield from _places(table, TASK_KEYS, STATES, horizons)
    odd = {*table["stratum"].dropna().unique()} - {*STRATA}
    if odd:
        yield f"stratum {short(min(map(str, odd)))}, expected {' or '.join(STRATA)}, or none"
    yield from _values(table, {name: least_value(name) for name in metric_columns(table)})


def layer_problems(layers: pd.DataFrame, horizons: Collection[int]) -> Iterator[str]:
    """Say what is wrong with means by layer."""
    yield from _places(layers, LAYER_KEYS, STATES, horizons)
    yield from _values(layers, {name: least_value(name) for name in metric_columns(layers)})


def fact_problems(facts: pd.DataFrame, horizons: Collection[int]) -> Iterator[str]:
    """Say what is wrong with the floors of traces."""
    yield from _places(facts, FACT_KEYS, (*STATES, CROSSING), horizons)
    floors = [str(name) for name in facts.columns if name not in {*FACT_KEYS, *FLOOR_NAMES}]
    yield from _values(facts, dict.fromkeys(floors, 0.0))


def cost_problems(costs: pd.DataFrame) -> Iterator[str]:
    """Say what is wrong with what runs cost."""
    yield from _values(costs, dict.fromkeys((name for name in COUNTED if name in costs), 0.0))


def _places(
    frame: pd.DataFrame, keys: Sequence[str], states: Collection[str], horizons: Collection[int]
) -> Iterator[str]:
    """Say which rows are of no trace, of another state or horizon, or are there twice."""
    yield from (
        problem for name in frame["trace"].unique() if (problem := name_problem("trace", str(name))) is not None
    )
    allowed: Mapping[str, Collection[object]] = {"state": states, "horizon": {*map(float, horizons)}}
    for name, values in allowed.items():
        odd = sorted(value for value in frame[name].unique().tolist() if value not in values)
        if odd:
            yield f"{name} {short(odd[0])}, expected {first_ten(states if name == 'state' else sorted(horizons))}"
    for name in (name for name in WHOLE if name in frame):
        numbers = frame[name].to_numpy(np.float64)
        if not (np.isfinite(numbers) & (numbers >= 0) & (numbers == np.floor(numbers))).all():
            yield f"column {name!r} holds others than whole numbers from 0"
    twice = frame[frame.duplicated(list(keys))]
    if len(twice):
        place = ", ".join(f"{name} {short(twice[name].tolist()[0])}" for name in keys)
        yield f"{counted(len(twice), 'row')} twice, first {place}: expected each once"


def _values(frame: pd.DataFrame, least: Mapping[str, float]) -> Iterator[str]:
    """Say which numbers are not finite or below the least that the column can hold, and which columns have no name."""
    for name, lowest in least.items():
        if (problem := name_problem("metric", name)) is not None:
            yield problem
        numbers = frame[name].to_numpy(np.float64)
        odd = np.isinf(numbers) | (numbers < lowest - ROUNDING)
        if odd.any():
            from_ = "" if math.isinf(lowest) else f" from {lowest:g}"
            yield f"{name} is {numbers[odd][0]:g}, expected a finite number{from_}, or none"

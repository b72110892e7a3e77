"""The rows of one run, which a worker returns and the cache keeps: dictionaries of the columns of `results.columns`.

Numbers are kept to nine significant digits; a value that does not exist (a layer without load) is None.

Axis letters: K suite horizons, L MoE layers.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from moeload_bench.arrays import FloatArray
from moeload_bench.names import name_problem
from moeload_bench.results.checks import ROUNDING
from moeload_bench.results.columns import FACT_KEYS, LAYER_KEYS, ROW_KEYS, RUN_KEYS, Row
from moeload_bench.results.storage import ALL_TEXTS, check_counts
from moeload_bench.results.trace_facts import Value
from moeload_bench.scoring.catalogue import least_value
from moeload_bench.suites.suite import SuiteTrace

INTEGERS = {*ROW_KEYS, *LAYER_KEYS} - {*ALL_TEXTS}


def origin_rows(
    run: Row, window: Row, crossing: Sequence[bool], horizons: Sequence[int], metrics: Mapping[str, FloatArray]
) -> Iterator[Row]:
    """Yield a row per horizon of one origin. ``run`` and ``window`` hold what is the same, ``metrics`` is [K] each."""
    for k, horizon in enumerate(horizons):
        numbers = {metric: rounded(value_K[k]) for metric, value_K in metrics.items()}
        yield {**run, **window, "crossing": crossing[k], "horizon": horizon, **numbers}


def layer_rows(
    trace: str, state: str, horizons: Sequence[int], layers: int, metrics: Mapping[str, FloatArray]
) -> Iterator[Row]:
    """Yield a row per horizon and layer of a state; ``metrics`` is [K, L] each."""
    for k, horizon in enumerate(horizons):
        for layer in range(layers):
            numbers = {metric: rounded(value_KL[k, layer]) for metric, value_KL in metrics.items()}
            yield {"trace": trace, "state": state, "layer": layer, "horizon": horizon, **numbers}


def rounded(value: float) -> Value:
    """Round to nine significant digits; what is not finite becomes None."""
    return float(f"{value:.9g}") if math.isfinite(value) else None


def rounded_tree(tree: Mapping[str, Any]) -> dict[str, Any]:
    """Round nested mappings of arrays, as `rounded` does."""
    return {key: rounded_tree(v) if isinstance(v, Mapping) else _rounded_array(v) for key, v in tree.items()}


def _rounded_array(array: Any) -> Any:
    if hasattr(array, "tolist"):
        array = array.tolist()
    return [_rounded_array(item) for item in array] if isinstance(array, list | tuple) else rounded(float(array))


def scored_rows(rows: Sequence[Row]) -> list[Row]:
    """Return the rows of forecasts."""
    return [row for row in rows if "origin" in row]


def failed_rows(rows: Sequence[Row]) -> list[Row]:
    """Return the first row of each failed task."""
    failed = {row["origin"]: row for row in reversed(scored_rows(rows)) if row["failure"] is not None}
    return list(reversed(failed.values()))


# ------------------------------------------------------------------------------------------------ in the cache


def to_tree(rows: Sequence[Row]) -> dict[str, Any]:
    """Return rows as the cache keeps them: the names of columns once for neighbours that have the same."""
    groups = itertools.groupby(rows, key=tuple)
    return {"rows": [[list(names), [list(row.values()) for row in group]] for names, group in groups]}


def from_tree(tree: Any, scored_run: SuiteTrace, horizons: Sequence[int]) -> list[Row]:
    """Return rows from a cache entry; raise `ValueError` for those of another trace, other tasks or another form."""
    rows: list[Row] = []
    for names, group in tree["rows"]:
        _check_columns(dict(zip(names, zip(*group, strict=True), strict=True)))
        rows += (dict(zip(names, values, strict=True)) for values in group)
    windows = [(row["origin"], row["state"], row["horizon"]) for row in scored_rows(rows)]
    expected = [(origin, state, h) for origin, state in sorted(scored_run.origins()) for h in horizons]
    traces = {(row["trace"], row.get("data_sha256", scored_run.data_sha256)) for row in rows}
    if windows != expected or traces - {(scored_run.id, scored_run.data_sha256)}:
        raise ValueError("it is the result of another trace, or of other tasks")
    layers = [(row["state"], row["horizon"], row["layer"]) for row in rows if "layer" in row]
    L = max((row["layers"] for row in scored_rows(rows)), default=0)
    states = dict.fromkeys(state for _, state, _ in windows)
    means = itertools.product(states, horizons, range(L))
    if len(layers) != len(states) * len(horizons) * L or any(a != b for a, b in zip(layers, means, strict=True)):
        raise ValueError("its means are not those of the suite's horizons and of its layers")
    return rows


def _check_columns(columns: Mapping[str, Sequence[Any]]) -> None:
    """Raise `ValueError` for rows without a column that they have to have, and for a value or name of another kind."""
    keys = (*ROW_KEYS, *RUN_KEYS) if "origin" in columns else LAYER_KEYS if "layer" in columns else FACT_KEYS
    lacking = {*keys} - {"forecaster"} - columns.keys()
    wrong = [name for name, values in columns.items() if not all(map(_kind_of(name), values))]
    unnamed = [problem for name in columns if (problem := name_problem("metric", name)) is not None]
    if lacking or wrong or unnamed:
        raise ValueError(f"rows are without {sorted(lacking)}, or of another kind in {wrong}; {unnamed}")
    for counts in {*columns.get("counts", ())}:
        check_counts(counts)


def _kind_of(name: str) -> Callable[[Any], bool]:
    """Return whether a value can stand in a column: text, or a finite number that is not below the column's least."""
    if name in ALL_TEXTS:
        return lambda value: value is None or isinstance(value, str)
    if name == "crossing":
        return lambda value: isinstance(value, bool)
    if name in INTEGERS:
        return lambda value: type(value) is int and value >= 0
    least = 0.0 if name in RUN_KEYS else least_value(name) - ROUNDING
    return lambda value: value is None or (type(value) in (int, float) and least <= value < math.inf)

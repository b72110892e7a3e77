"""Check that the harness could have written a claimed run's numbers: names, shapes, ranges, and sums that agree.

Axis letters: K suite horizons, L MoE layers.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any

from moeload_bench.results.grid import present_mean
from moeload_bench.results.record import RunResult, TaskResult
from moeload_bench.scoring.catalogue import METRICS, PRIMARY, UNBOUNDED, forecast_metrics, needs_quantiles, plan_metrics
from moeload_bench.scoring.floors import FLOOR_METRICS, FLOOR_NAMES
from moeload_bench.suites.suite import CROSSING, STATES

SUM_TOLERANCE = 1e-5  # both sides are kept to nine digits
MAX_SECONDS = 1e8  # three years
MIN_MEMORY_BYTES, MAX_MEMORY_BYTES = 1 << 20, 1 << 50
MAX_LAYERS, MAX_EXPERTS = 1 << 16, 1 << 20

Possible = Mapping[str, tuple[float, float]]
"""The smallest and largest value of each metric."""


def check_numbers(run: RunResult, K: int, known: RunResult | None = None, asked: int | None = None) -> Iterator[str]:
    """Yield what is wrong with a run's numbers; its tasks must be the suite's already.

    ``known`` is another forecaster's result on the same run. Both must agree in what depends only on the trace: layers,
    experts and floors. ``asked``: of how many of the horizons a run is asked that is too short for all.
    """
    asked = K if asked is None else asked
    if asked < K and any(len(one) != K or any(map(_there, one[asked:])) for one in _by_horizon(run)):
        yield f"expected {K} values by horizon, nulls after the first {asked}: the run is too short for the others"
        return
    if not (1 <= run.layers <= MAX_LAYERS and 1 <= run.experts <= MAX_EXPERTS):
        yield f"got {run.layers} layers of {run.experts} experts, expected at least one of each"
        return
    if known is not None and (run.layers, run.experts) != (known.layers, known.experts):
        yield f"got {run.layers} layers of {run.experts} experts, the trace has {known.layers} of {known.experts}"
        return
    yield from _ranges(run)
    possible = _possible(run.experts)
    names = set(run.tasks[0].metrics) if run.tasks else set()
    yield from _names(names, possible)
    for task in run.tasks:
        yield from _task(task, names, possible, K, asked)
    wrong = [*_layers(run, names, possible, K, asked), *_floors(run, K)]
    yield from wrong or [*_sums(run, asked), *(() if known is None else _same_layers(run, known, asked))]


def _by_horizon(run: RunResult) -> Iterator[Sequence[Any]]:
    """Yield everything that has a value, or a row of them, for each horizon."""
    for task in run.tasks:
        yield from (task.crossing, *task.metrics.values())
    for rows_KL in run.per_layer.values():
        yield from rows_KL.values()
    for floors in run.floors.values():
        yield from (value_K for floor in floors.values() for value_K in floor.values())


def _there(value: Any) -> bool:
    """Return whether a horizon has a value: a crossing, a number, a row with a number."""
    return any(map(_there, value)) if isinstance(value, Sequence) else value is not None and value is not False


def _ranges(run: RunResult) -> Iterator[str]:
    """Yield a problem unless costs and counts are non-negative and plausible; a run that did work must report time."""
    for name, value in {**run.cost.model_dump(), **run.counts}.items():
        yield from check_cost(name, value)
    cost = run.cost
    if run.failures:
        return
    if cost.forecasts != len(run.tasks):
        yield f"'forecasts': got {cost.forecasts}, expected {len(run.tasks)}, one for each origin"
    if not (cost.observe_wall_s > 0 and cost.forecast_wall_s > 0 and cost.observed_rows > 0):
        yield "cost: got 0 s of observing or forecasting, expected what the harness measured"
    if cost.peak_memory_bytes is not None and cost.peak_memory_bytes < MIN_MEMORY_BYTES:
        yield f"'peak_memory_bytes': got {cost.peak_memory_bytes}, expected at least {MIN_MEMORY_BYTES}"


def check_cost(name: str, value: float | None) -> Iterator[str]:
    """Yield what is wrong with a time, a size or a count: negative, or implausibly large."""
    most = MAX_SECONDS if name.endswith("_s") else MAX_MEMORY_BYTES if name == "peak_memory_bytes" else UNBOUNDED
    if value is not None and not 0 <= value <= most:
        got = "a negative number" if value < 0 else "too large a number"
        yield f"{name[:40]!r}: got {got}, expected one between 0 and {most:g}"


def _possible(experts: int) -> Possible:
    """Return every metric with its smallest and largest value."""
    found = {metric.name: metric.range(0) for metric in forecast_metrics()}
    return found | {name: metric.range(devices) for name, (metric, devices) in plan_metrics(experts).items()}


def _names(names: set[str], possible: Possible) -> Iterator[str]:
    """Yield unknown and missing metrics: all of a forecast's and all of plans', and all or none of the quantiles'."""
    optional = {name for name in possible if needs_quantiles(name)}
    required = possible.keys() - optional
    for name in sorted(names - required - optional):
        yield f"metrics: {name[:40]!r} is unknown"
    for name in sorted((required | (optional if names & optional else set())) - names):
        yield f"metrics: {name!r} is missing"


def _range(metric: str, possible: Possible, failed: bool) -> tuple[float, float]:
    """Return the range of a metric; a task that failed may score up to twice as badly as uniform."""
    least, most = possible.get(metric, (-UNBOUNDED, UNBOUNDED))
    return least - SUM_TOLERANCE, (2 * most + 1 if failed else most) + SUM_TOLERANCE


@lru_cache(maxsize=1024)
def _in_every_layer(metric: str) -> bool:
    spec = METRICS.get(metric.partition("@")[0])
    return spec is not None and spec.in_every_layer


def _task(task: TaskResult, names: set[str], possible: Possible, K: int, asked: int) -> Iterator[str]:
    where = f"origin {task.origin}"
    if set(task.metrics) != names:
        yield f"{where}: metrics {sorted(set(task.metrics) ^ names)[:3]} are not those of the other tasks"
        return
    if len(task.crossing) != K or any(not _sane(value_K, K) for value_K in task.metrics.values()):
        yield f"{where}: expected one sane value for each of the {K} horizons"
        return
    yield from _within(task.metrics, where, possible, task.failure is not None, asked)
    if task.failure is None:
        yield from _relations(task.metrics, where)
    elif any(value != 1 for value in task.metrics.get(PRIMARY, ())[:asked]):
        yield f"{where}: a failed task scores {PRIMARY} = 1, got {list(task.metrics[PRIMARY])}"


def _within(
    metrics: Mapping[str, Sequence[float | None]], where: str, possible: Possible, failed: bool, asked: int
) -> Iterator[str]:
    """Yield values outside of their range, and missing values of metrics that every layer has."""
    for metric, values in metrics.items():
        least, most = _range(metric, possible, failed)
        for value in values[:asked]:
            if value is None and _in_every_layer(metric):
                yield f"{where}: {metric} is null, expected a number: every layer has one"
                return
            if value is not None and not least <= value <= most:
                shown = f"between {least + SUM_TOLERANCE:g} and {most - SUM_TOLERANCE:g}"
                yield f"{where}: {metric[:60]} is {value:g}, expected a number {shown}"
                return


def _relations(metrics: Mapping[str, Sequence[float | None]], where: str) -> Iterator[str]:
    """Yield broken relations between metrics that hold for any forecast."""
    for k, value in enumerate(metrics.get("tv", ())):
        twice, window = _value(metrics, "error_rate_uniform", k), _value(metrics, PRIMARY, k)
        if value is None or twice is None or window is None:
            continue
        if not math.isclose(twice, 2 * value, rel_tol=SUM_TOLERANCE, abs_tol=1e-7):
            yield f"{where}: error_rate_uniform is {twice:g} and tv is {value:g}, expected twice as much"
            return
        if window > value + SUM_TOLERANCE:
            yield f"{where}: {PRIMARY} is {window:g} and tv is {value:g}, expected at most as much"
            return
    for metric, values in metrics.items():
        shape = metric.removeprefix("regret@")
        for k, regret in enumerate(values if shape != metric else ()):
            imbalance = _value(metrics, f"imbalance@{shape}", k)
            if regret is not None and imbalance is not None and 1 + regret > imbalance + SUM_TOLERANCE:
                yield f"{where}: {metric} is {regret:g} at an imbalance of {imbalance:g}: no plan's is below 1"
                return


def _sane(values: Sequence[float | None], length: int) -> bool:
    return len(values) == length and all(value is None or abs(value) <= UNBOUNDED for value in values)


def _layers(run: RunResult, names: set[str], possible: Possible, K: int, asked: int) -> Iterator[str]:
    """Yield a problem unless each state that has tasks holds each metric as [K][L]."""
    states = {task.state for task in run.tasks}
    if set(run.per_layer) != states:
        yield f"per_layer: expected the states {sorted(states)}"
        return
    for state, metrics in run.per_layer.items():
        if set(metrics) != names:
            yield f"per_layer.{state}: metrics {sorted(set(metrics) ^ names)[:3]} are not those of the tasks"
        failed = any(task.failure is not None for task in run.tasks if task.state == state)
        for metric, rows_KL in metrics.items():
            if len(rows_KL) != K or not all(_sane(row_L, run.layers) for row_L in rows_KL[:asked]):
                yield f"per_layer.{state}.{metric[:40]!r}: expected [{K}][{run.layers}] sane values"
                continue
            least, most = _range(metric, possible, failed)
            wrong = [value for row_L in rows_KL for value in row_L if value is not None and not least <= value <= most]
            if wrong:
                yield f"per_layer.{state}.{metric[:40]!r}: got {wrong[0]:g}, which no layer scores"
        if len({_empty_layers(rows_KL[:asked]) for name, rows_KL in metrics.items() if _in_every_layer(name)}) > 1:
            yield f"per_layer.{state}: nulls in one metric and not in another: a layer without load has none at all"


def _empty_layers(rows_KL: Sequence[Sequence[float | None]]) -> tuple[tuple[bool, ...], ...]:
    return tuple(tuple(value is None for value in row_L) for row_L in rows_KL)


def _floors(run: RunResult, K: int) -> Iterator[str]:
    """Yield a problem unless all floors of all states are there, and nothing else under their names."""
    states = {task.state for task in run.tasks}
    if set(run.floor_marks) != set(FLOOR_NAMES):
        unknown = sorted(set(run.floor_marks) ^ set(FLOOR_NAMES))[0]
        yield f"floor_marks: {unknown[:40]!r} is {'missing' if unknown in FLOOR_NAMES else 'unknown'}"
        return
    if not states <= set(run.floors) <= {*STATES, CROSSING}:
        yield f"floors: got those of {sorted(set(run.floors))[:4]}, expected those of {sorted(states)} and {CROSSING}"
        return
    given = {floor for floor, mark in run.floor_marks.items() if mark != "not given"}
    for state, floors in run.floors.items():
        for floor in sorted(given ^ set(floors)):
            yield f"floors: {state!r}, {floor[:40]!r}: floor_marks says otherwise"
            return
        for floor, metrics in floors.items():
            for metric, value_K in metrics.items():
                most = METRICS[metric].span[1] + SUM_TOLERANCE if metric in FLOOR_METRICS else -1
                if not _sane(value_K, K) or any(value is not None and not 0 <= value <= most for value in value_K):
                    yield f"floors: {state!r}, {floor!r}, {metric[:40]!r}: expected [{K}] sane values of known metrics"
                    return
            if set(metrics) != set(FLOOR_METRICS):
                yield f"floors: {state!r}, {floor!r}: expected {', '.join(FLOOR_METRICS)}"
                return


def _same_layers(run: RunResult, known: RunResult, asked: int) -> Iterator[str]:
    """Yield a problem unless nulls are where the reference has them: which layers have no load depends on the trace."""
    for state, metrics in known.per_layer.items():
        got_KL = run.per_layer.get(state, {}).get(PRIMARY, ())
        if PRIMARY in metrics and _empty_layers(got_KL[:asked]) != _empty_layers(metrics[PRIMARY][:asked]):
            yield f"per_layer.{state}: nulls where the reference's result has numbers"


def _sums(run: RunResult, asked: int) -> Iterator[str]:
    """Yield means by layer that differ from those by task of the same numbers; `_layers` and `_task` check shapes."""
    for state, metrics in sorted(run.per_layer.items()):
        tasks = [task for task in run.tasks if task.state == state]
        for metric in sorted(name for name in metrics if _in_every_layer(name)):
            rows = [task.metrics.get(metric, ()) for task in tasks]
            for k, value_T in itertools.islice(enumerate(itertools.zip_longest(*rows, range(asked))), asked):
                by_task = present_mean(value_T[:-1])
                by_layer = present_mean(metrics[metric][k])
                if by_task is None or by_layer is None:
                    yield f"{metric} ({state}, horizon number {k + 1}): got no number, expected the mean of every layer"
                    return
                if not math.isclose(by_task, by_layer, rel_tol=SUM_TOLERANCE, abs_tol=1e-7):
                    yield (
                        f"{metric} ({state}, horizon number {k + 1}): the tasks' mean is {by_task:.6g}, the layers' "
                        f"{by_layer:.6g}: the numbers were changed after the run"
                    )
                    return


def _value(metrics: Mapping[str, Any], metric: str, k: int) -> float | None:
    values = metrics.get(metric, ())
    return values[k] if k < len(values) else None

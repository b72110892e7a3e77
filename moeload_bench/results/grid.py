"""Result tables as numbers: rows of forecasters, one cell for each horizon, floors, excess and skill.

A cell is the mean over runs of the run's mean over its origins in that state, itself a mean over layers. States and
horizons are never averaged away. `moeload_bench.results.words` says over what a cell is a mean,
`moeload_bench.results.render` draws the table.

Axis letters: K suite horizons.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from moeload_bench.errors import not_found
from moeload_bench.results.comparison import Errors, errors_of, reference_of, skill
from moeload_bench.results.record import Result, RunResult, TaskResult
from moeload_bench.results.statistics import Interval
from moeload_bench.scoring.catalogue import metric_names, ratio_metric
from moeload_bench.scoring.floors import excess
from moeload_bench.suites.suite import CROSSING, STATES

Values = tuple[float | None, ...]
FLOOR_ROWS = ("floor_batch", "floor_level", "floor_sampling")
NOTHING = "-"


@dataclass(frozen=True)
class Grid:
    """The content of a result table of these results, however it is drawn."""

    results: tuple[Result, ...]
    metric: str
    horizons: tuple[int, ...]
    rows: tuple[Row, ...]
    floors: dict[tuple[str, str], Values]
    marks: dict[str, str]


def result_grid(results: Sequence[Result], metric: str) -> Grid | None:
    """Forecaster x state x horizon of one metric, with floors, excess and skill; None when no result has the metric.

    Rows of a state are in the order of skill. Raises `NotFoundError` for a metric that neither the results nor the
    catalogue have.
    """
    if not any(metric in task.metrics for result in results for run in result.runs for task in run.tasks):
        if metric not in metric_names():
            raise not_found("metric", metric, metric_names())
        return None
    ratio = ratio_metric(metric)
    reference = reference_of(results) if ratio else None
    compared = [*results, *([reference] if reference is not None and reference not in results else [])]
    errors = errors_of(compared, ratio or metric)
    by_state = {state: errors.select(state=state) for state in STATES} | {CROSSING: errors.select(crossing=True)}
    floors = {
        (state, floor): found
        for (state, floor), found in floors_of(results[0], metric).items()
        if by_state[state].state_T
    }
    rows = [
        row
        for state, here in by_state.items()
        if here.state_T
        for row in by_skill(_row(result, here, state, metric, floors, reference) for result in results)
    ]
    return Grid(tuple(results), metric, results[0].suite.horizons, tuple(rows), floors, marks_of(results[0]))


def by_skill(rows: Iterable[Row]) -> list[Row]:
    """The most skill first, those without any last, equals as they came: the order of every table."""
    return sorted(rows, key=lambda row: -np.inf if row.skill_value is None else row.skill_value, reverse=True)


def floors_of(result: Result, metric: str) -> dict[tuple[str, str], Values]:
    """The floors of a metric by (state, floor), where there are any; [K] each."""
    return {
        (state, floor): values
        for state in (*STATES, CROSSING)
        for floor in FLOOR_ROWS
        if (values := floor_values(result, state, floor, metric))
    }


def _row(
    result: Result,
    errors: Errors,
    state: str,
    metric: str,
    floors: dict[tuple[str, str], Values],
    reference: Result | None,
) -> Row:
    means = [mean_K for run in result.runs if (mean_K := run_means(run, state, metric))]
    value_K = tuple(present_mean([mean_K[k] for mean_K in means]) for k in range(len(result.suite.horizons)))
    floor_K = floors.get((state, "floor_batch"), ())
    origins_K = tuple(
        sum(_has_value(task, state, metric, k) for run in result.runs for task in run.tasks)
        for k in range(len(result.suite.horizons))
    )
    counts: dict[str, int] = {}
    for run in result.runs:
        for name, count in run.counts.items():
            counts[name] = counts.get(name, 0) + count
    value, intervals = _skill(errors, result, reference)
    return Row(
        forecaster=result.name,
        state=state,
        value_K=value_K,
        excess_K=tuple(_excess(value, floor) for value, floor in zip(value_K, floor_K, strict=False)),
        skill=_skill_text(value, intervals),
        skill_value=value,
        interval=next((one for one in intervals if one.claim == "a new recipe"), None),
        runs=sum(any(value is not None for value in mean_K) for mean_K in means),
        origins=max(origins_K),
        origins_K=origins_K,
        per_forecast_s=float(np.mean([run.cost.per_forecast_s for run in result.runs])),
        of_training=present_mean([run.cost.of_training for run in result.runs]),
        counts=counts,
    )


def marks_of(result: Result) -> dict[str, str]:
    """The weakest mark of each floor over the runs."""
    marks: dict[str, str] = {}
    for run in result.runs:
        for floor, mark in run.floor_marks.items():
            marks[floor] = mark if marks.get(floor, "exact") == "exact" else marks[floor]
    return marks


def _skill(errors: Errors, result: Result, reference: Result | None) -> tuple[float | None, list[Interval]]:
    if reference is None:
        return None, []
    value, intervals = skill(errors, result.name, reference.name)
    return (None, []) if np.isnan(value) else (value, intervals)


def signed(value: float, digits: int = 3) -> str:
    """So many decimals and a sign; as many more, up to six in all, as tell the value from naught.

    An end of an interval that reads -0.00 says neither how far nor on which side it lies.
    """
    shown = next((n for n in range(digits, 7) if round(value, n)), None)
    return f"{0.0:+.{digits}f}" if shown is None else f"{value:+.{shown}f}"


def _skill_text(value: float | None, intervals: Sequence[Interval]) -> str:
    if value is None:
        return NOTHING
    text = f"{value:+.3f}"
    found = [f"{interval.claim} [{signed(interval.low)}, {signed(interval.high)}]" for interval in intervals]
    return f"{text} {'; '.join(found)}" if found else f"{text} (n/a)"


def _has_value(task: TaskResult, state: str, metric: str, k: int) -> bool:
    """Whether a task counts in the cell of a state and of horizon number ``k``."""
    here = task.crossing[k] if state == CROSSING else task.state == state
    return here and metric in task.metrics and task.metrics[metric][k] is not None


def _excess(value: float | None, floor: float | None) -> float | None:
    return None if value is None or floor is None else float(excess(np.array(value), np.array(floor)))


@dataclass(frozen=True)
class Row:
    """One forecaster in one state: the metric and its excess over floor_batch at each suite horizon.

    ``origins_K`` how many origins have a value at each horizon, ``origins`` the most of them; ``runs`` with any value.
    ``skill`` is ``skill_value`` with its intervals as text; ``interval`` that for a new recipe.
    """

    forecaster: str
    state: str
    value_K: Values
    excess_K: Values
    skill: str
    runs: int
    origins: int
    origins_K: tuple[int, ...]
    per_forecast_s: float
    of_training: float | None
    counts: dict[str, int]
    skill_value: float | None = None
    interval: Interval | None = None

    @property
    def fallback(self) -> float | None:
        """The part of its forecasts in which the forecaster fell back to something plain; None where it is silent."""
        made = self.counts.get("forecasts", 0)
        return self.counts["fallback"] / made if made and "fallback" in self.counts else None

    @property
    def falls_back(self) -> bool:
        """Whether most of the row's numbers are those of its fallback."""
        return (self.fallback or 0.0) > 0.5


def run_means(run: RunResult, state: str, metric: str) -> list[float | None]:
    """[K] the run's mean over its origins in a state (or over the windows that cross); empty when there is none."""
    tasks = [task for task in run.tasks if _in_state(task.state, task.crossing, state) and metric in task.metrics]
    if not tasks:
        return []
    return [
        present_mean([task.metrics[metric][k] for task in tasks if state != CROSSING or task.crossing[k]])
        for k in range(len(tasks[0].crossing))
    ]


def floor_values(result: Result, state: str, floor: str, metric: str) -> Values:
    """[K] the mean over runs of a floor of a metric in a state; empty where no run has it."""
    found = [
        run.floors[state][floor][metric] for run in result.runs if metric in run.floors.get(state, {}).get(floor, {})
    ]
    return tuple(present_mean([values[k] for values in found]) for k in range(len(found[0]))) if found else ()


def present_mean(values: Sequence[float | None]) -> float | None:
    """The mean of the values that are there; None where there is none."""
    kept = [value for value in values if value is not None]
    return float(np.mean(kept)) if kept else None


def _in_state(task_state: str, crossing: tuple[bool, ...], state: str) -> bool:
    return any(crossing) if state == CROSSING else task_state == state

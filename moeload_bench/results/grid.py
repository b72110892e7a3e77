"""Result tables for the terminal and for Markdown. Every table says over what each cell is a mean.

A cell is the mean over runs of the run's mean over its origins in that state, itself a mean over layers. States and
horizons are never averaged away.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from moeload_bench.results.comparison import Errors, errors_of, reference_of, skill
from moeload_bench.results.record import Result, Results, TaskResult
from moeload_bench.results.rows import (
    FLOOR_ROWS,
    NOTHING,
    Row,
    Values,
    floor_values,
    number,
    present_mean,
    ratio_metric,
    run_means,
)
from moeload_bench.results.words import caption
from moeload_bench.scoring.floors import excess
from moeload_bench.suites.suite import CROSSING, STATES

if TYPE_CHECKING:
    from rich.table import Table

COST_HEADINGS = ("ms", "% train")


@dataclass(frozen=True)
class Grid:
    """The content of a result table, however it is drawn."""

    metric: str
    horizons: tuple[int, ...]
    rows: tuple[Row, ...]
    floors: dict[tuple[str, str], Values]
    marks: dict[str, str]
    caption: str


def result_grid(results: Sequence[Result], metric: str) -> Grid | None:
    """Forecaster x state x horizon of one metric, with floors, excess and skill; None when no result has the metric."""
    if not any(metric in task.metrics for result in results for run in result.runs for task in run.tasks):
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
        _row(result, here, state, metric, floors, reference)
        for state, here in by_state.items()
        for result in results
        if here.state_T
    ]
    marks = marks_of(results[0])
    text = caption(results, rows, metric, floors, marks)
    return Grid(metric, results[0].suite.horizons, tuple(rows), floors, marks, text)


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
    return Row(
        forecaster=result.name,
        state=state,
        value_K=value_K,
        excess_K=tuple(_excess(value, floor) for value, floor in zip(value_K, floor_K, strict=False)),
        skill=_skill(errors, result, reference),
        runs=sum(any(value is not None for value in mean_K) for mean_K in means),
        origins=max(origins_K),
        origins_K=origins_K,
        per_forecast_s=float(np.mean([run.cost.per_forecast_s for run in result.runs])),
        of_training=present_mean([run.cost.of_training for run in result.runs]),
        counts=counts,
    )


def result_table(results: Results, metric: str) -> Table | None:
    """`result_grid` drawn for a terminal."""
    from rich.table import Table
    from rich.text import Text

    grid = result_grid(results, metric)
    if grid is None:
        return None
    table = Table(title=f"{metric}, suite {results[0].suite.name}", caption=Text(grid.caption), caption_justify="left")
    for heading in ("state", "forecaster"):
        table.add_column(heading)
    for horizon in grid.horizons:
        table.add_column(f"h={horizon}", justify="right")
    for heading in ("skill", *COST_HEADINGS):
        table.add_column(heading, justify="right")
    for state in (*STATES, CROSSING):
        for row in (row for row in grid.rows if row.state == state):
            table.add_row(state, row.forecaster, *cells(row), row.skill, *cost_cells(row))
        for floor in FLOOR_ROWS:
            if (state, floor) in grid.floors:
                table.add_row(state, marked(floor, grid.marks), *map(number, grid.floors[state, floor]), style="dim")
        table.add_section()
    return table


def marked(floor: str, marks: Mapping[str, str]) -> str:
    """A floor's name, with how far it can be trusted where it is not exact."""
    mark = marks.get(floor, "exact")
    return floor if mark == "exact" else f"{floor} ({mark})"


def marks_of(result: Result) -> dict[str, str]:
    """The weakest mark of each floor over the runs."""
    marks: dict[str, str] = {}
    for run in result.runs:
        for floor, mark in run.floor_marks.items():
            marks[floor] = mark if marks.get(floor, "exact") == "exact" else marks[floor]
    return marks


def cells(row: Row) -> list[str]:
    """`error (excess)` at each horizon; only the error where there is no floor."""
    if not row.excess_K:
        return [number(value) for value in row.value_K]
    return [f"{number(value)} ({number(over)})" for value, over in zip(row.value_K, row.excess_K, strict=True)]


def cost_cells(row: Row) -> list[str]:
    """Time per answered origin, observing included, and as a share of the recorded training time."""
    return [number(1e3 * row.per_forecast_s), number(None if row.of_training is None else 100 * row.of_training)]


def _skill(errors: Errors, result: Result, reference: Result | None) -> str:
    if reference is None:
        return NOTHING
    value, intervals = skill(errors, result.name, reference.name)
    if np.isnan(value):
        return NOTHING
    text = f"{value:+.3f}"
    found = [f"{interval.claim} [{interval.low:+.3f}, {interval.high:+.3f}]" for interval in intervals]
    return f"{text} {'; '.join(found)}" if found else f"{text} (n/a)"


def _has_value(task: TaskResult, state: str, metric: str, k: int) -> bool:
    """Whether a task counts in the cell of a state and of horizon number ``k``."""
    here = task.crossing[k] if state == CROSSING else task.state == state
    return here and metric in task.metrics and task.metrics[metric][k] is not None


def _excess(value: float | None, floor: float | None) -> float | None:
    return None if value is None or floor is None else float(excess(np.array(value), np.array(floor)))

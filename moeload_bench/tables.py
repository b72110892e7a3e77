"""Result tables for the terminal and for Markdown. Every table says over what each cell is a mean.

A cell is the mean over runs of the run's mean over its origins in that state, itself a mean over layers. States and
horizons are never averaged away.

Axis letters: K suite horizons, R rows.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from moeload_bench.comparison import Errors, errors_of, reference_of, skill
from moeload_bench.floors import excess
from moeload_bench.placement_cost import describe_metric
from moeload_bench.results import Result, Results, RunResult
from moeload_bench.scoring import METRICS
from moeload_bench.suite import STATES

if TYPE_CHECKING:
    from rich.table import Table

Values = tuple[float | None, ...]
FLOOR_ROWS = ("floor_batch", "floor_level", "floor_sampling")
CROSSING = "crossing"
COST_HEADINGS = ("ms", "% train")
TINY = 1e-12
"""Keeps a ratio of two exact forecasts at 1."""


@dataclass(frozen=True)
class Row:
    """One forecaster in one state: the metric and its excess over floor_batch at each suite horizon."""

    forecaster: str
    state: str
    value_K: Values
    excess_K: Values
    skill: str
    runs: int
    origins: int
    per_forecast_s: float
    of_training: float | None
    counts: dict[str, int]


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
    reference = reference_of(results) if has_skill(metric) else None
    compared = [*results, *([reference] if reference is not None and reference not in results else [])]
    errors = errors_of(compared, metric)
    floors: dict[tuple[str, str], Values] = {
        (state, floor): values
        for state in STATES
        for floor in FLOOR_ROWS
        if (values := floor_values(results[0], state, floor, metric))
    }
    rows = []
    for state in (*STATES, CROSSING):
        here = errors.select(crossing=True) if state == CROSSING else errors.select(state=state)
        rows += [_row(result, here, state, metric, floors, reference) for result in results if here.state_T]
    return Grid(
        metric, results[0].suite.horizons, tuple(rows), floors, _marks(results[0]), _caption(rows, metric, reference)
    )


def _row(
    result: Result,
    errors: Errors,
    state: str,
    metric: str,
    floors: dict[tuple[str, str], Values],
    reference: Result | None,
) -> Row:
    means = [mean for run in result.runs if (mean := run_means(run, state, metric))]
    value_K = tuple(_mean([mean[k] for mean in means]) for k in range(len(result.suite.horizons)))
    floor_K = floors.get((state, "floor_batch"), ())
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
        runs=len(means),
        origins=sum(_in_state(task.state, task.crossing, state) for run in result.runs for task in run.tasks),
        per_forecast_s=float(np.mean([run.cost.per_forecast_s for run in result.runs])),
        of_training=_mean([run.cost.of_training for run in result.runs]),
        counts=counts,
    )


def has_skill(metric: str) -> bool:
    """Skill is a ratio: it needs an error that is positive and smaller when better."""
    return any(spec.name == metric and spec.lower_is_better for spec in METRICS)


def run_means(run: RunResult, state: str, metric: str) -> list[float | None]:
    """[K] the run's mean over its origins in a state (or over the windows that cross); empty when there is none."""
    tasks = [task for task in run.tasks if _in_state(task.state, task.crossing, state) and metric in task.metrics]
    if not tasks:
        return []
    return [
        _mean([task.metrics[metric][k] for task in tasks if state != CROSSING or task.crossing[k]])
        for k in range(len(tasks[0].crossing))
    ]


def floor_values(result: Result, state: str, floor: str, metric: str) -> Values:
    """[K] the mean over runs of a floor of a metric in a state; empty where no run has it."""
    found = [
        run.floors[state][floor][metric] for run in result.runs if metric in run.floors.get(state, {}).get(floor, {})
    ]
    return tuple(_mean([values[k] for values in found]) for k in range(len(found[0]))) if found else ()


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
                table.add_row(state, marked(floor, grid), *map(number, grid.floors[state, floor]), style="dim")
        table.add_section()
    return table


def marked(floor: str, grid: Grid) -> str:
    """A floor's name, with how far it can be trusted where it is not exact."""
    mark = grid.marks.get(floor, "exact")
    return floor if mark == "exact" else f"{floor} ({mark})"


def _marks(result: Result) -> dict[str, str]:
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


def _caption(rows: Sequence[Row], metric: str, reference: Result | None) -> str:
    spec = next((spec for spec in METRICS if spec.name == metric), None)
    about = f"{spec.description} [{spec.unit}]" if spec else describe_metric(metric) or "a metric of the results"
    spans = {row.state: f"{row.state} {row.origins} origins of {row.runs} run(s)" for row in rows}
    lines = [
        f"{metric}: {about}.",
        f"A cell is the mean over runs of means over origins and layers: {'; '.join(spans.values())}.",
    ]
    if any(row.excess_K for row in rows):
        lines.append("In parentheses the excess over floor_batch, sqrt(max(0, error^2 - floor^2)).")
    if reference is not None:
        lines.append(
            f"Skill: 1 - geometric mean over tasks of the ratio to {reference.name}, with 95 % intervals by their "
            "claim; n/a with fewer than 5 recipes."
        )
    lines.append("ms: wall time per answered origin, observing included; % train: of the recorded training time.")
    events = {row.forecaster: row.counts for row in rows if row.counts}
    if events:
        listed = (f"{name}: " + ", ".join(f"{key} {n}" for key, n in counts.items()) for name, counts in events.items())
        lines.append(f"Counted by the forecaster: {'; '.join(listed)}.")
    return "\n".join(lines)


def failure_lines(results: Results) -> Iterator[str]:
    """One line per distinct failure: forecaster, trace, how many tasks, the first origin, the reason."""
    grouped: dict[tuple[str, str, str], list[int]] = {}
    for name, trace, task in results.failures:
        grouped.setdefault((name, trace, task.failure or ""), []).append(task.origin)
    for (name, trace, reason), origins in grouped.items():
        yield f"failed: {name} on {trace}, {len(origins)} task(s) from origin {min(origins)}: {reason}"


def best_lines(results: Results, metric: str) -> Iterator[str]:
    """Which forecaster served best in each state: the least mean over horizons of the ratio to the best one there."""
    grid = result_grid(results, metric)
    for state in STATES:
        here = [row for row in grid.rows if row.state == state] if grid else []
        if not here:
            if state != "mixed":
                yield f"{state}: no origin of the trace is in this state"
            continue
        value_RK = np.array([[np.inf if value is None else value for value in row.value_K] for row in here])
        ratio_RK = (value_RK + TINY) / (value_RK.min(axis=0) + TINY)
        best = here[int(ratio_RK.mean(axis=1).argmin())]
        yield f"{state}: {best.forecaster} served best ({metric}, horizons weighted alike)"


def number(value: float | None) -> str:
    """Three significant digits, "-" for nothing."""
    return "-" if value is None else f"{value:.3g}"


def _skill(errors: Errors, result: Result, reference: Result | None) -> str:
    if reference is None:
        return "-"
    value, intervals = skill(errors, result.name, reference.name)
    text = "-" if np.isnan(value) else f"{value:+.3f}"
    found = [f"{interval.claim} [{interval.low:+.2f}, {interval.high:+.2f}]" for interval in intervals]
    return f"{text} {'; '.join(found)}" if found else f"{text} (n/a)"


def _in_state(task_state: str, crossing: tuple[bool, ...], state: str) -> bool:
    return any(crossing) if state == CROSSING else task_state == state


def _excess(value: float | None, floor: float | None) -> float | None:
    return None if value is None or floor is None else float(excess(np.array(value), np.array(floor)))


def _mean(values: Sequence[float | None]) -> float | None:
    kept = [value for value in values if value is not None]
    return float(np.mean(kept)) if kept else None

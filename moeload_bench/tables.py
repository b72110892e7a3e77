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

from moeload_bench.comparison import Errors, best_window, errors_of, reference_of, skill
from moeload_bench.floors import FLOOR_METRICS, excess
from moeload_bench.placement import headline_shapes
from moeload_bench.placement_cost import ABOUT, describe_metric
from moeload_bench.results import Result, Results, RunResult, TaskResult
from moeload_bench.scoring import METRICS
from moeload_bench.statistics import EXACT
from moeload_bench.suite import CROSSING as CROSSING
from moeload_bench.suite import STATES

if TYPE_CHECKING:
    from rich.table import Table

Values = tuple[float | None, ...]
FLOOR_ROWS = ("floor_batch", "floor_level", "floor_sampling")
COST_HEADINGS = ("ms", "% train")
NOTHING = "-"


@dataclass(frozen=True)
class Row:
    """One forecaster in one state: the metric and its excess over floor_batch at each suite horizon.

    ``origins_K`` how many origins have a value at each horizon, ``origins`` the most of them; ``runs`` with any value.
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
    floors: dict[tuple[str, str], Values] = {
        (state, floor): values
        for state, here in by_state.items()
        for floor in FLOOR_ROWS
        if here.state_T and (values := floor_values(results[0], state, floor, metric))
    }
    rows = [
        _row(result, here, state, metric, floors, reference)
        for state, here in by_state.items()
        for result in results
        if here.state_T
    ]
    marks = _marks(results[0])
    lines = [*_about(rows, metric), *_floor_words(rows, metric, floors, marks), *_skill_words(results, rows, metric)]
    caption = "\n".join([*lines, *_cost_words(rows)])
    return Grid(metric, results[0].suite.horizons, tuple(rows), floors, marks, caption)


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
        runs=sum(any(value is not None for value in mean) for mean in means),
        origins=max(origins_K),
        origins_K=origins_K,
        per_forecast_s=float(np.mean([run.cost.per_forecast_s for run in result.runs])),
        of_training=_mean([run.cost.of_training for run in result.runs]),
        counts=counts,
    )


def has_skill(metric: str) -> bool:
    """Skill is a ratio: it needs an error that is positive and smaller when better."""
    return any(spec.name == metric and spec.lower_is_better for spec in METRICS)


def ratio_metric(metric: str) -> str | None:
    """The metric whose ratio to the reference's is the skill in a table; None where there is none.

    Regret may be 0 or less and a drop rate 0, so tables of plans take the imbalance of the same plans.
    """
    name, _, shape = metric.partition("@")
    if name in ABOUT and shape in _shapes():
        return f"imbalance@{shape}"
    return metric if has_skill(metric) else None


def metric_names() -> list[str]:
    """Every metric that a table can be asked for; which shapes of plans there are depends on the number of experts."""
    plans = [f"{name}@{shape}" for name in ABOUT for shape in _shapes()]
    return [*(spec.name for spec in METRICS), *plans, "drop_rate@experts"]


def _shapes() -> list[str]:
    """Names of the cluster shapes, all of which exist for 64 experts."""
    return [shape.name for shape in headline_shapes(64)]


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


def _about(rows: Sequence[Row], metric: str) -> Iterator[str]:
    """What the metric is, and over what a cell is a mean."""
    spec = next((spec for spec in METRICS if spec.name == metric), None)
    about = f"{spec.description} [{spec.unit}]" if spec else describe_metric(metric) or "a metric of the results"
    yield f"{metric}: {about}."
    spans = [span_words([row for row in rows if row.state == state]) for state in dict.fromkeys(r.state for r in rows)]
    yield f"A cell is the mean over runs of means over origins and layers: {'; '.join(spans)}."


def span_words(rows: Sequence[Row]) -> str:
    """Over how many origins and runs the rows of one state are means."""
    return f"{rows[0].state} {origins_of(rows)} of {max(row.runs for row in rows)} run(s)"


def origins_of(rows: Sequence[Row]) -> str:
    """`40 origins`, or `0/2/11/40/40 origins (by horizon)`: the most that any of the rows rests on."""
    most_K = np.array([row.origins_K for row in rows]).max(axis=0).tolist()
    if len(set(most_K)) == 1:
        return f"{most_K[0]} origin{'' if most_K[0] == 1 else 's'}"
    return f"{'/'.join(map(str, most_K))} origins (by horizon)"


def _floor_words(
    rows: Sequence[Row], metric: str, floors: dict[tuple[str, str], Values], marks: dict[str, str]
) -> Iterator[str]:
    """What stands in parentheses; where an error has no floor, why."""
    if any(row.excess_K for row in rows):
        yield "In parentheses the excess over floor_batch, sqrt(max(0, error^2 - floor^2))."
    if not has_skill(metric):
        return
    lacking = [state for state in dict.fromkeys(row.state for row in rows) if (state, "floor_batch") not in floors]
    if metric not in FLOOR_METRICS:
        yield f"No floor is known for {metric}, so there is no excess."
    elif marks.get("floor_batch") == "not given":
        yield "floor_batch is not given (no half batches were recorded), so there is no excess."
    elif lacking:
        yield f"No floor is given for: {', '.join(lacking)}."


def _skill_words(results: Sequence[Result], rows: Sequence[Row], metric: str) -> Iterator[str]:
    """What skill is a ratio of and to whom; where there is none, why."""
    ratio = ratio_metric(metric)
    if ratio is None:
        yield f"No skill: {metric} is no positive error of which a ratio could be taken."
        return
    reference = reference_of(results)
    if reference is None:
        target = results[0].suite.reference
        yield f"No skill: the reference {target} was not run, and the package has no result of it on this suite."
        return
    of = "the ratio" if ratio == metric else f"the ratio of {ratio}"
    yield (
        f"Skill: 1 - geometric mean over tasks of {of} to {reference.name}, with 95 % intervals by their "
        "claim; n/a with fewer than 5 recipes."
    )
    if reference not in results:
        yield f"The result of {reference.name} comes with the package; it was not run here."
    if any(row.skill == NOTHING for row in rows):
        yield f"Skill is {NOTHING} where {reference.name} or the forecaster has no value of {ratio}."
    best = best_window(results, ratio)
    if best is not None and best[1] > 1:
        yield (
            f"Best fixed window in hindsight ({ratio}): {best[0]}, of {best[1]} windows; chosen on these very scores, "
            "so a yardstick and no fair entry."
        )


def _cost_words(rows: Sequence[Row]) -> Iterator[str]:
    yield "ms: wall time per answered origin, observing included; % train: of the recorded training time."
    events = {row.forecaster: row.counts for row in rows if row.counts}
    if events:
        listed = (f"{name}: " + ", ".join(f"{key} {n}" for key, n in counts.items()) for name, counts in events.items())
        yield f"Counted by the forecaster: {'; '.join(listed)}."


def absence(results: Results, metric: str) -> str:
    """Why there is no table of a metric that exists: nobody gave quantiles, or the traces have no such shape."""
    if any(spec.name == metric and spec.needs_quantiles for spec in METRICS):
        return f"no table of {metric}: it needs quantiles, and no forecaster gave any"
    there = sorted({name for r in results for run in r.runs for task in run.tasks for name in task.metrics})
    return f"no table of {metric}: these results hold {', '.join(there)}"


def failure_lines(results: Results) -> Iterator[str]:
    """One line per distinct failure: forecaster, trace, how many tasks, the first origin, the reason."""
    grouped: dict[tuple[str, str, str], list[int]] = {}
    for name, trace, task in results.failures:
        grouped.setdefault((name, trace, task.failure or ""), []).append(task.origin)
    for (name, trace, reason), origins in grouped.items():
        yield f"failed: {name} on {trace}, {len(origins)} task(s) from origin {min(origins)}: {reason}"


def best_lines(results: Results, metric: str) -> Iterator[str]:
    """Which forecaster served best in each state: the least mean over horizons of the ratio to the best one there.

    Horizons at which nothing has a value are left out; a metric of which no ratio can be taken gives way to the first.
    """
    metric = metric if has_skill(metric) else METRICS[0].name
    grid = result_grid(results, metric)
    for state in STATES:
        here = [row for row in grid.rows if row.state == state] if grid else []
        if not here:
            if state != "mixed":
                yield f"{state}: no origin of the trace is in this state"
            continue
        value_RK = np.array([[np.inf if value is None else value for value in row.value_K] for row in here])
        value_RK = value_RK[:, np.isfinite(value_RK).any(axis=0)]
        if not value_RK.size:
            yield f"{state}: nothing could be scored ({metric} has no value at any horizon)"
            continue
        value_RK = np.maximum(value_RK, EXACT)
        ratio_R = (value_RK / value_RK.min(axis=0)).mean(axis=1)
        best = [row.forecaster for row, ratio in zip(here, ratio_R, strict=True) if ratio == ratio_R.min()]
        yield f"{state}: {', '.join(best)} served best ({metric}, horizons weighted alike)"


def number(value: float | None) -> str:
    """Three significant digits, "-" for nothing."""
    return NOTHING if value is None else f"{value:.3g}"


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


def _in_state(task_state: str, crossing: tuple[bool, ...], state: str) -> bool:
    return any(crossing) if state == CROSSING else task_state == state


def _excess(value: float | None, floor: float | None) -> float | None:
    return None if value is None or floor is None else float(excess(np.array(value), np.array(floor)))


def _mean(values: Sequence[float | None]) -> float | None:
    kept = [value for value in values if value is not None]
    return float(np.mean(kept)) if kept else None

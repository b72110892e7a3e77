"""The words of a result table: its caption, why there is none, what failed, who served best.

The caption says what the metric is, over what cells are means, and what skill and floors rest on.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from moeload_bench.results.comparison import best_window, reference_of
from moeload_bench.results.grid import NOTHING, Grid, Row, result_grid
from moeload_bench.results.record import Results
from moeload_bench.results.statistics import EXACT
from moeload_bench.scoring.catalogue import METRICS, describe_metric, has_skill, needs_quantiles, ratio_metric
from moeload_bench.scoring.floors import FLOOR_METRICS
from moeload_bench.suites.suite import STATES, near_twins_of


def table_caption(grid: Grid) -> str:
    """The lines below a table."""
    about = [*_about(grid), *_floor_words(grid)]
    return "\n".join([*about, *_skill_words(grid), *_cost_words(grid.rows)])


def _about(grid: Grid) -> Iterator[str]:
    """What the metric is, and over what a cell is a mean."""
    rows, metric = grid.rows, grid.metric
    yield f"{metric}: {describe_metric(metric)}."
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


def _floor_words(grid: Grid) -> Iterator[str]:
    """What stands in parentheses; where an error has no floor, why."""
    rows, metric, floors, marks = grid.rows, grid.metric, grid.floors, grid.marks
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


def _skill_words(grid: Grid) -> Iterator[str]:
    """What skill is a ratio of and to whom; where there is none, why."""
    results, rows, metric = grid.results, grid.rows, grid.metric
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
    twins: dict[str, list[str]] = {}
    for recipe, group in near_twins_of(results[0].suite.name, results[0].suite.sha256).items():
        twins.setdefault(group, []).append(recipe)
    for together in twins.values():
        yield f"Near twins count as one recipe: {', '.join(together)}."
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


def why_no_table(results: Results, metric: str) -> str:
    """Why there is no table of a metric that exists: nobody gave quantiles, or the traces have no such shape."""
    if needs_quantiles(metric):
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

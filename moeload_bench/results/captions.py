"""The words of a result table: its caption, why there is none, what failed, what it comes to.

The caption says what the metric is, over what cells are means, and what skill and floors rest on.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

import numpy as np

from moeload_bench.errors import counted
from moeload_bench.results.choice import Verdict
from moeload_bench.results.comparison import best_window
from moeload_bench.results.grid import NOTHING, ResultGrid, Row, metrics_in
from moeload_bench.results.record import Result
from moeload_bench.scoring.catalogue import describe_metric, has_skill, lower_is_better, needs_quantiles
from moeload_bench.scoring.floors import FLOOR_METRICS
from moeload_bench.states.origins import FIRST
from moeload_bench.states.rule import StateRule
from moeload_bench.suites.suite import STATES, near_twins_of


def table_caption(grid: ResultGrid) -> str:
    """Return the lines below a table."""
    about = [*_about(grid), *_floor_words(grid)]
    return "\n".join([*about, *_skill_words(grid), *_cost_words(grid.rows)])


def _about(grid: ResultGrid) -> Iterator[str]:
    """Yield what the metric is, what rows and columns are, and over what a cell is a mean."""
    metric = grid.metric
    yield f"{metric}: {describe_metric(metric)}."
    yield f"A row is a forecaster, a column a horizon h in training steps{better_words(metric)}."
    yield f"A cell is the mean over runs of means over origins and layers: {spans_of(grid)}."


def better_words(metric: str) -> str:
    """Return which direction of a metric is better; empty where neither is."""
    lower = lower_is_better(metric)
    return "" if lower is None else f"; {'less' if lower else 'more'} is better"


def spans_of(grid: ResultGrid, states: Sequence[str] | None = None) -> str:
    """Say over how many origins and runs the rows of each state are means."""
    return "; ".join(span_words(grid.of_state(state)) for state in grid.states if states is None or state in states)


def span_words(rows: Sequence[Row]) -> str:
    """Say over how many origins and runs the rows of one state are means."""
    return f"{rows[0].state} {origins_of(rows)} of {counted(max(row.runs for row in rows), 'run')}"


def origins_of(rows: Sequence[Row]) -> str:
    """Return `40 origins`, or `0/2/11/40/40 origins (by horizon)`: the most that any of the rows rests on."""
    most_K = np.array([row.origins_K for row in rows]).max(axis=0).tolist()
    if len(set(most_K)) == 1:
        return counted(most_K[0], "origin")
    return f"{'/'.join(map(str, most_K))} origins (by horizon)"


def _floor_words(grid: ResultGrid) -> Iterator[str]:
    """Yield what stands in parentheses; where an error has no floor, why."""
    rows, metric, floors, marks = grid.rows, grid.metric, grid.floors, grid.marks
    if any(row.excess_K for row in rows):
        yield "In parentheses the excess over floor_batch, sqrt(max(0, error^2 - floor^2))."
    if not has_skill(metric):
        return
    lacking = [state for state in grid.states if (state, "floor_batch") not in floors]
    if metric not in FLOOR_METRICS:
        yield f"No floor is known for {metric}, so there is no excess."
    elif marks.get("floor_batch") == "not given":
        yield "floor_batch is not given (no half batches were recorded), so there is no excess."
    elif lacking:
        yield f"No floor is given for: {', '.join(lacking)}."


def _skill_words(grid: ResultGrid) -> Iterator[str]:
    """Yield what skill is a ratio of and to whom; where there is none, why."""
    results, rows, metric, ratio = grid.results, grid.rows, grid.metric, grid.scores.ratio
    if ratio is None:
        yield f"No skill: {metric} is no positive error of which a ratio could be taken."
        return
    reference = grid.scores.reference
    if reference is None:
        target = results[0].suite.reference
        yield f"No skill: the reference {target} was not run, and the package has no result of it on this suite."
        return
    of = "the ratio" if ratio == metric else f"the ratio of {ratio}"
    yield (
        f"Skill: 1 - geometric mean over tasks of {of} to {reference}, with 95 % intervals by their "
        "claim; n/a with fewer than 5 recipes."
    )
    twins: dict[str, list[str]] = {}
    for recipe, group in near_twins_of(results[0].suite.name, results[0].suite.sha256).items():
        twins.setdefault(group, []).append(recipe)
    for together in twins.values():
        yield f"Near twins count as one recipe: {', '.join(together)}."
    if reference not in (result.name for result in results):
        yield f"The result of {reference} comes with the package; it was not run here."
    if any(row.skill is None for row in rows):
        yield f"Skill is {NOTHING} where {reference} or the forecaster has no value of {ratio}."
    best = best_window(results, ratio)
    if best is not None and best[1] > 1:
        yield (
            f"Best fixed window in hindsight ({ratio}): {best[0]}, of {best[1]} windows; chosen on these very scores, "
            "so a yardstick and no fair entry."
        )


def _cost_words(rows: Sequence[Row]) -> Iterator[str]:
    yield "ms: CPU time per answered origin, observing included; % train: wall time, of the recorded training time."
    events = {row.forecaster: counts for row in rows if (counts := row.result.counts)}
    if events:
        listed = (f"{name}: " + ", ".join(f"{key} {n}" for key, n in counts.items()) for name, counts in events.items())
        yield f"Counted by the forecaster: {'; '.join(listed)}."


def why_no_table(results: Sequence[Result], metric: str) -> str:
    """Return why there is no table of a metric that exists: nobody gave quantiles, or the traces have no such shape."""
    if needs_quantiles(metric):
        return f"no table of {metric}: it needs quantiles, and no forecaster gave any"
    return f"no table of {metric}: these results hold {', '.join(sorted(metrics_in(results)))}"


def failure_lines(results: Sequence[Result]) -> Iterator[str]:
    """Yield one line per distinct failure: forecaster, trace, how many origins, the first one, its reason. Reasons that
    differ in their numbers alone are one failure.
    """
    grouped: dict[tuple[str, str, str], list[tuple[int, str]]] = {}
    for result in results:
        for trace, task in result.failures:
            reason = task.failure or ""
            grouped.setdefault((result.name, trace, re.sub(r"\d+", "0", reason)), []).append((task.origin, reason))
    for (name, trace, _), found in grouped.items():
        origin, reason = min(found)
        yield f"failed: {name} on {trace}, {counted(len(found), 'origin')} from {origin} on: {reason}"


def answer_lines(
    results: Sequence[Result], choices: Sequence[Verdict], rule: StateRule, steps: int | None = None
) -> Iterator[str]:
    """Yield what a table comes to, state by state: what errs least, or why nothing can be said.

    ``steps``: how many the one run has that the results are about.
    """
    chosen = {choice.state: choice for choice in choices}
    there = {task.state for result in results for run in result.runs for task in run.tasks}
    for state in STATES:
        if state in chosen:
            yield chosen[state].text
        elif state in there:
            yield f"{state}: nothing can be said: no forecaster was scored at all of its origins"
        elif state != "mixed":
            yield f"{state}: {why_no_origin(state, results[0].suite.horizons[-1], rule, steps)}"


def why_no_origin(state: str, horizon: int, rule: StateRule, steps: int | None) -> str:
    """Return why there is no origin in a state: the run is too short for the rule, or never in it with the horizon to
    come.
    """
    before = FIRST if state == "transient" else rule.earliest_stable
    if steps is not None and steps < before + horizon:
        return f"needs {before + horizon:,} steps, {before:,} to be {state} and {horizon:,} to forecast; has {steps:,}"
    return f"no origin: never in this state with {horizon:,} steps to come"

"""The words of a result table: its caption, why there is none, what failed, what it comes to.

The caption says what the metric is, over what cells are means, and what skill and floors rest on.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence

from moeload_bench.errors import counted
from moeload_bench.results.choice import Verdict
from moeload_bench.results.columns import floor_marks, metric_columns, states_of, total_counts
from moeload_bench.results.formats import DASH
from moeload_bench.results.report import Report, ReportRow
from moeload_bench.results.results import Results
from moeload_bench.results.season import late_words
from moeload_bench.scoring.catalogue import describe_metric, has_skill, lower_is_better, needs_quantiles
from moeload_bench.scoring.floors import FLOOR_METRICS
from moeload_bench.states.origins import FIRST
from moeload_bench.states.rule import StateRule
from moeload_bench.suites.suite import STATES

WINDOWED = "sw_avg"
"""The baseline whose every entry is a fixed window."""


def report_caption(report: Report) -> str:
    """Return the lines below a table."""
    late = late_words(report.results)
    words = [*_about(report), *_floor_words(report), *_skill_words(report), *_cost_words(report.results)]
    return "\n".join([*words, late] if late else words)


def _about(report: Report) -> Iterator[str]:
    """Yield what the metric is, what rows and columns are, and over what a cell is a mean."""
    metric = report.metric
    yield f"{metric}: {describe_metric(metric)}."
    yield f"A row is a forecaster, a column a horizon h in training steps{better_words(metric)}."
    yield f"Cells are means over layers and origins, then over runs. Origins: {spans_of(report)}."


def better_words(metric: str) -> str:
    """Return which direction of a metric is better; empty where neither is."""
    lower = lower_is_better(metric)
    return "" if lower is None else f"; {'less' if lower else 'more'} is better"


def spans_of(report: Report, states: Sequence[str] | None = None) -> str:
    """Say over how many origins and runs the rows of each state are means."""
    return "; ".join(span_words(report.rows_in(state)) for state in report.states if states is None or state in states)


def span_words(rows: Sequence[ReportRow]) -> str:
    """Say over how many origins and runs the rows of one state are means."""
    return f"{rows[0].state} {origins_of(rows)} of {counted(max(row.runs for row in rows), 'run')}"


def origins_of(rows: Sequence[ReportRow]) -> str:
    """Return `40 origins`, or `0/2/11/40/40 origins (by horizon)`: the most that any of the rows rests on."""
    most_K = [max(at_horizon) for at_horizon in zip(*(row.origins_K for row in rows), strict=True)]
    if len(set(most_K)) == 1:
        return counted(most_K[0], "origin")
    return f"{'/'.join(map(str, most_K))} origins (by horizon)"


def _floor_words(report: Report) -> Iterator[str]:
    """Yield what stands in parentheses; where an error has no floor, why."""
    metric = report.metric
    if any(row.excess_K for state in report.states for row in report.rows_in(state)):
        yield "In parentheses the excess over floor_batch, sqrt(max(0, error^2 - floor^2))."
    if not has_skill(metric):
        return
    lacking = [state for state in report.states if not report.floors.get((state, "floor_batch"))]
    if metric not in FLOOR_METRICS:
        yield f"No floor is known for {metric}, so there is no excess."
    elif floor_marks(report.results.facts).get("floor_batch") == "not given":
        yield "floor_batch is not given (no half batches were recorded), so there is no excess."
    elif lacking:
        yield f"No floor is given for: {', '.join(lacking)}."


def _skill_words(report: Report) -> Iterator[str]:
    """Yield what skill is a ratio of and to whom; where there is none, why."""
    results, metric, ratio = report.results, report.metric, report.ratio
    if ratio is None:
        yield f"No skill: {metric} is no positive error of which a ratio could be taken."
        return
    reference = report.reference
    if reference is None:
        target = results.suite.reference
        yield f"No skill: the reference {target} was not run, and the package has no result of it on this suite."
        return
    of = "the ratio" if ratio == metric else f"the ratio of {ratio}"
    yield (
        f"Skill: 1 - geometric mean over tasks of {of} to {reference}, with 95 % intervals by their "
        "claim; n/a with fewer than 5 recipes."
    )
    twins: dict[str, list[str]] = {}
    for recipe, group in results.suite.twins.items():
        twins.setdefault(group, []).append(recipe)
    for together in twins.values():
        yield f"Near twins count as one recipe: {', '.join(together)}."
    if reference not in results.entries:
        yield f"The result of {reference} comes with the package; it was not run here."
    if any(math.isnan(row.skill) for state in report.states for row in report.rows_in(state)):
        yield f"Skill is {DASH} where {reference} or the forecaster has no value of {ratio}."
    windows = [name for name, entry in results.entries.items() if entry.target.partition("@")[0] == WINDOWED]
    if len(windows) > 1:
        best = results.select(windows).summarize((), ratio)["forecaster"][0]
        yield (
            f"Best fixed window in hindsight ({ratio}): {best}, of {len(windows)} windows; chosen on these very "
            "scores, so a yardstick and no fair entry."
        )


def _cost_words(results: Results) -> Iterator[str]:
    yield "ms: CPU time per answered origin, observing included; % train: wall time, of the recorded training time."
    events = {name: counts for name in results.names if (counts := total_counts(results.table, name))}
    if events:
        listed = (f"{name}: " + ", ".join(f"{key} {n}" for key, n in counts.items()) for name, counts in events.items())
        yield f"Counted by the forecaster: {'; '.join(listed)}."


def why_no_table(results: Results, metric: str) -> str:
    """Return why there is no table of a metric that exists: nobody gave quantiles, or the traces have no such shape."""
    if needs_quantiles(metric):
        return f"no table of {metric}: it needs quantiles, and no forecaster gave any"
    return f"no table of {metric}: these results hold {', '.join(sorted(metric_columns(results.table)))}"


def failure_lines(results: Results) -> Iterator[str]:
    """Yield one line per distinct failure: forecaster, trace, how many origins, the first one, its reason. Reasons that
    differ in their numbers alone are one failure.
    """
    failures = results.failures
    kinds = failures["failure"].map(lambda reason: re.sub(r"\d+", "0", reason))
    for (name, trace, _), tasks in failures.groupby(["forecaster", "trace", kinds], sort=False):
        first = tasks.sort_values("origin").iloc[0]
        size = counted(len(tasks), "origin")
        yield f"failed: {name} on {trace}, {size} from {first['origin']} on: {first['failure']}"


def answer_lines(
    results: Results, choices: Sequence[Verdict], rule: StateRule, steps: int | None = None, stride: int = 1
) -> Iterator[str]:
    """Yield what a table comes to, state by state: what errs least, or why nothing can be said.

    ``steps``: how many the one run has that the results are about, recorded every ``stride`` steps.
    """
    chosen = {choice.state: choice for choice in choices}
    for state in STATES:
        if state in chosen:
            yield chosen[state].text
        elif state in states_of(results.table):
            yield f"{state}: nothing can be said: no forecaster was scored at all of its origins"
        elif state != "mixed":
            yield f"{state}: {why_no_origin(state, results.suite.horizons[-1], rule, steps, stride)}"


def why_no_origin(state: str, horizon: int, rule: StateRule, steps: int | None, stride: int = 1) -> str:
    """Return why there is no origin in a state: the run is too short for the rule, or never in it with the horizon to
    come.
    """
    before = max(FIRST * stride, 0 if state == "transient" else rule.earliest_stable)
    if steps is not None and steps < before + horizon:
        return f"needs {before + horizon:,} steps, {before:,} to be {state} and {horizon:,} to forecast; has {steps:,}"
    return f"no origin: never in this state with {horizon:,} steps to come"

"""A result table's caption: what the metric is, over what cells are means, what skill and floors rest on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from moeload_bench.placement.cost import describe_metric
from moeload_bench.results.comparison import best_window, reference_of
from moeload_bench.results.record import Result
from moeload_bench.results.rows import NOTHING, Row, Values, has_skill, ratio_metric
from moeload_bench.scoring.floors import FLOOR_METRICS
from moeload_bench.scoring.scores import METRICS
from moeload_bench.suites.suite import near_twins_of

Floors = Mapping[tuple[str, str], Values]


def caption(
    results: Sequence[Result], rows: Sequence[Row], metric: str, floors: Floors, marks: Mapping[str, str]
) -> str:
    """The lines below a table. ``floors`` by (state, floor), ``marks`` how far each floor can be trusted."""
    about = [*_about(rows, metric), *_floor_words(rows, metric, floors, marks)]
    return "\n".join([*about, *_skill_words(results, rows, metric), *_cost_words(rows)])


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


def _floor_words(rows: Sequence[Row], metric: str, floors: Floors, marks: Mapping[str, str]) -> Iterator[str]:
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
    groups: dict[str, list[str]] = {}
    for recipe, group in near_twins_of(results[0].suite.name, results[0].suite.sha256).items():
        groups.setdefault(group, []).append(recipe)
    for group in groups.values():
        yield f"Near twins count as one recipe: {', '.join(group)}."
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

"""The summary of results: a row per forecaster and state by one metric, from which every table and figure is made.

A value is the mean over runs of the run's mean over its origins in that state, itself a mean over layers. States and
horizons are never averaged away, except where somebody asks for `ALL`. `results.captions` says over what a value is a
mean; `results.console`, `results.markdown` and `results.html` render the tables that `results.tables` makes of rows.

Axis letters: K suite horizons.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from moeload_bench.errors import not_found
from moeload_bench.results.comparison import Errors, errors_of, reference_of, runs_of, skill
from moeload_bench.results.record import Result, RunResult
from moeload_bench.results.statistics import Claim, Interval, rank_groups, ranks
from moeload_bench.scoring.catalogue import metric_names, ratio_metric
from moeload_bench.scoring.floors import FLOOR_NAMES, excess
from moeload_bench.suites.suite import CROSSING, STATES

Values = tuple[float | None, ...]
ALL = "all"
"""In place of a state: all origins, whatever the state."""
NOTHING = "-"

COLUMNS: dict[str, tuple[str, str]] = {
    "forecaster": ("Forecaster", "Who forecast"),
    "recipe": ("Recipe", "The recipe whose runs are meant, or all of the suite's"),
    "state": ("State", "State of the run at the origin; crossing: the window contains a change of state"),
    "horizon": ("Horizon", "Training steps ahead, or all horizons of the suite"),
    "metric": ("Metric", "A name of the catalogue; docs/methods/metrics.md says which direction is better"),
    "value": ("Value", "Mean over runs of means over origins and layers"),
    "excess": ("Excess", "Over floor_batch: sqrt(max(0, error² - floor²))"),
    "skill": ("Skill", "1 - geometric mean of the error ratio to the reference"),
    "new_recipe": ("95 %, a new recipe", "Interval of skill; claim: a new recipe"),
    "new_seeds": ("95 %, new seeds", "Interval of skill; claim: these recipes, new seeds"),
    "low": ("95 % from", "Lower end of the interval of skill; claim: a new recipe"),
    "high": ("95 % to", "Upper end of it"),
    "rank": ("Group", "In the order of skill; a group's members cannot be told apart from its first"),
    "win_rate": ("Win rate", "Part of the tasks with the better value"),
    "regret": ("Regret", "regret@quarter on the same tasks: excess imbalance of the plan over the best one"),
    "ms": ("ms", "Wall time per answered origin, observing included"),
    "training": ("% train", "Of the recorded training time"),
    "runs": ("Runs", "Runs with a value"),
    "origins": ("Origins", "Origins with a value"),
}
"""The one description of columns: what stands above each, and what it is. Of value, excess, regret and costs less is
better (of scores such as hot_recall more), of skill and win rate more."""


@dataclass(frozen=True)
class Row:
    """One forecaster in one state, at the horizons [K] that are looked at together.

    ``excess_K`` is over floor_batch, empty where there is none; ``origins_K`` counts the origins that have a value,
    ``runs`` the runs with any. ``skill`` is over all of the horizons, with its ``intervals`` by claim.
    """

    result: Result
    state: str
    value_K: Values
    excess_K: Values
    origins_K: tuple[int, ...]
    runs: int
    skill: float | None
    intervals: tuple[Interval, ...]

    @property
    def forecaster(self) -> str:
        return self.result.name

    @property
    def value(self) -> float | None:
        """Return the mean over the horizons."""
        return present_mean(self.value_K)

    @property
    def origins(self) -> int:
        return max(self.origins_K)

    def claim(self, claim: Claim) -> Interval | None:
        """Return the interval for a claim, None with too few recipes or runs."""
        return next((one for one in self.intervals if one.claim == claim), None)

    @property
    def new_recipe(self) -> Interval | None:
        return self.claim("a new recipe")

    @property
    def new_seeds(self) -> Interval | None:
        return self.claim("these recipes, new seeds")

    @property
    def fallback(self) -> float | None:
        """Return the part of its forecasts in which the forecaster fell back to something plain; None where it is
        silent.
        """
        counts = self.result.counts
        made = counts.get("forecasts", 0)
        return counts["fallback"] / made if made and "fallback" in counts else None

    @property
    def falls_back(self) -> bool:
        """Return whether most of the row's numbers are those of its fallback."""
        return (self.fallback or 0.0) > 0.5


class Standings:
    """How results stand by one metric: the scores of which rows for any runs, state and horizon are made.

    Skill is against the ``reference``, which need not be among the results.
    """

    def __init__(self, results: Sequence[Result], metric: str, reference: Result | None) -> None:
        self.results, self.horizons = tuple(results), results[0].suite.horizons
        self.metric, self.ratio = metric, ratio_metric(metric)
        reference = reference if self.ratio else None
        self.reference = None if reference is None else reference.name
        outside = [] if reference is None or any(one is reference for one in results) else [reference]
        self._compared = [*results, *outside]
        self._known: dict[str, list[tuple[list[list[float | None]], list[int]]]] = {}

    @cached_property
    def errors(self) -> Errors:
        """Return the metric, task by task, of the results and the reference."""
        return errors_of(self._compared, self.metric)

    @cached_property
    def ratios(self) -> Errors:
        """Return the metric that skill is a ratio of, task by task."""
        return self.errors if self.ratio in (None, self.metric) else errors_of(self._compared, self.ratio or "")

    def on(self, runs: Collection[str]) -> Standings:
        """Return the same scores on some of the runs."""
        found = Standings(with_runs_of(self.results, runs), self.metric, None)
        found.reference = self.reference
        found.errors, found.ratios = (runs_of(errors, runs) for errors in (self.errors, self.ratios))
        return found

    def rows(self, state: str, horizon: int | None = None) -> list[Row]:
        """Return a row per forecaster, in their order."""
        at = range(len(self.horizons)) if horizon is None else [self.horizons.index(horizon)]
        here = in_state(self.ratios, state, horizon) if self.reference else None
        floor_K = self.floor(state, "floor_batch")
        if state not in self._known:
            self._known[state] = [self._means(result, state) for result in self.results]
        rows = []
        for result, (means, origins_K) in zip(self.results, self._known[state], strict=True):
            value_K = tuple(present_mean([mean_K[k] for mean_K in means]) for k in at)
            found, intervals = skill(here, result.name, self.reference or "") if here else (float("nan"), [])
            rows.append(Row(
                result, state, value_K,
                tuple(map(_excess, value_K, (floor_K[k] for k in at))) if floor_K else (),
                tuple(origins_K[k] for k in at),
                sum(any(value is not None for value in mean_K) for mean_K in means),
                None if np.isnan(found) else found, () if np.isnan(found) else tuple(intervals),
            ))  # fmt: skip
        return rows

    def _means(self, result: Result, state: str) -> tuple[list[list[float | None]], list[int]]:
        """Return the means of each run that has origins in a state, each [K], and how many origins have a value [K]."""
        means = [mean_K for run in result.runs if (mean_K := run_means(run, state, self.metric))]
        return means, [
            sum(
                _in_state(task.state, task.crossing[k : k + 1], state) and task.metrics[self.metric][k] is not None
                for run in result.runs
                for task in run.tasks
                if self.metric in task.metrics
            )
            for k in range(len(self.horizons))
        ]

    def ranks(self, state: str, horizon: int | None = None) -> dict[str, int]:
        """Return the rank group of each forecaster, from 1; empty with too few recipes, or without a ratio."""
        here = in_state(self.ratios, state, horizon)
        base_T = here.by_forecaster[self.reference] if self.reference else None
        error = {result.name: here.by_forecaster[result.name] for result in self.results}
        return ranks(rank_groups(error, here.tasks, base_T=base_T)) if self.ratio else {}

    def floor(self, state: str, floor: str) -> Values:
        """Return the mean over runs [K] of a floor of the metric in a state; empty where no run has it."""
        found = [
            run.floors[state][floor][self.metric]
            for run in self.results[0].runs
            if self.metric in run.floors.get(state, {}).get(floor, {})
        ]
        return tuple(present_mean(values) for values in zip(*found, strict=True))

    def floors(self) -> dict[tuple[str, str], Values]:
        """Return the floors by (state, floor), where there are any."""
        pairs = [(state, floor) for state in (*STATES, CROSSING) for floor in FLOOR_NAMES]
        return {(state, floor): found for state, floor in pairs if (found := self.floor(state, floor))}

    @property
    def marks(self) -> dict[str, str]:
        """Return the weakest mark of each floor over the runs."""
        marks: dict[str, str] = {}
        for run in self.results[0].runs:
            for floor, mark in run.floor_marks.items():
                marks[floor] = mark if marks.get(floor, "exact") == "exact" else marks[floor]
        return marks


@dataclass(frozen=True)
class ResultGrid:
    """The rows of all states that occur, over all horizons; rows of a state are in the order of skill."""

    scores: Standings
    results: tuple[Result, ...]
    metric: str
    horizons: tuple[int, ...]
    rows: tuple[Row, ...]
    floors: dict[tuple[str, str], Values]
    marks: dict[str, str]

    @property
    def states(self) -> list[str]:
        """Return the states that have rows."""
        return list(dict.fromkeys(row.state for row in self.rows))

    def of_state(self, state: str) -> list[Row]:
        """Return the rows of one state."""
        return [row for row in self.rows if row.state == state]

    def of(self, forecaster: str) -> list[Row]:
        """Return the rows of one forecaster, in the order of states."""
        return [row for row in self.rows if row.forecaster == forecaster]


def result_grid(results: Sequence[Result], metric: str) -> ResultGrid | None:
    """Return forecaster x state x horizon of a metric, with floors, excess and skill; None if no result has it.

    Raise `NotFoundError` for a metric that neither the results nor the catalogue have.
    """
    if metric not in metrics_in(results):
        if metric not in metric_names():
            raise not_found("metric", metric, metric_names())
        return None
    scores = Standings(results, metric, reference_of(results))
    rows = [
        row
        for state in (*STATES, CROSSING)
        if in_state(scores.ratios, state).state_T
        for row in by_skill(scores.rows(state))
    ]
    there = {row.state for row in rows}
    floors = {key: found for key, found in scores.floors().items() if key[0] in there}
    return ResultGrid(scores, scores.results, metric, scores.horizons, tuple(rows), floors, scores.marks)


def known_grid(results: Sequence[Result], metric: str) -> ResultGrid:
    """Return the grid of a metric that the results have; raise `NotFoundError` where they do not."""
    grid = result_grid(results, metric) if len(results) else None
    if grid is None:
        raise not_found("metric", metric, metrics_in(results))
    return grid


def metrics_in(results: Iterable[Result]) -> set[str]:
    """Return every metric that some task of the results has."""
    return {metric for result in results for run in result.runs for task in run.tasks for metric in task.metrics}


def by_skill(rows: Iterable[Row]) -> list[Row]:
    """Return the most skill first, those without any last, equals as they came: the order of every table."""
    return sorted(rows, key=lambda row: -np.inf if row.skill is None else row.skill, reverse=True)


def front_of(points: Mapping[str, tuple[float, float | None]], lower: bool) -> set[str]:
    """Return names of the (cost, value) that no other beats in one without losing in the other."""
    have = {name: (cost, value if lower else -value) for name, (cost, value) in points.items() if value is not None}
    return {
        name
        for name, (cost, value) in have.items()
        if not any((c <= cost and v <= value and (c, v) != (cost, value)) for c, v in have.values())
    }


def in_state(errors: Errors, state: str, horizon: int | None = None) -> Errors:
    """Return the tasks of a state, of windows that cross a change of state, or of all states; at one horizon or all."""
    if state == CROSSING:
        return errors.select(crossing=True, horizon=horizon)
    return errors.select(state=None if state == ALL else state, horizon=horizon)


def with_runs_of(results: Sequence[Result], traces: Collection[str]) -> list[Result]:
    """Return the results with these runs only."""
    return [
        result.model_copy(update={"runs": tuple(run for run in result.runs if run.trace in traces)})
        for result in results
    ]


def run_means(run: RunResult, state: str, metric: str) -> list[float | None]:
    """Return the run's mean [K] over its origins in a state, or over the windows that cross; empty without any."""
    tasks = [task for task in run.tasks if metric in task.metrics and _in_state(task.state, task.crossing, state)]
    if not tasks:
        return []
    return [
        present_mean([task.metrics[metric][k] for task in tasks if state != CROSSING or task.crossing[k]])
        for k in range(len(tasks[0].crossing))
    ]


def present_mean(values: Sequence[float | None]) -> float | None:
    """Return the mean of the values that are there; None where there is none."""
    kept = [value for value in values if value is not None]
    return float(np.mean(kept)) if kept else None


def _excess(value: float | None, floor: float | None) -> float | None:
    return None if value is None or floor is None else float(excess(np.array(value), np.array(floor)))


def _in_state(task_state: str, crossing: Sequence[bool], state: str) -> bool:
    return any(crossing) if state == CROSSING else state in (ALL, task_state)

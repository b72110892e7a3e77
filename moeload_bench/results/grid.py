"""The summary of results: a row per forecaster and state by one metric, from which every table and figure is made.

A value is the mean over runs of the run's mean over its origins in that state, itself a mean over layers. States and
horizons are never averaged away, except where somebody asks for `ALL`. `results.captions` says over what a value is a
mean; `results.console`, `results.markdown` and `results.html` render the tables that `results.tables` makes of rows.

Axis letters: K suite horizons.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moeload_bench.arrays import BoolArray, FloatArray, IntArray
from moeload_bench.errors import not_found
from moeload_bench.results.comparison import CLAIMS, Errors, SameTasks, reference_of, with_runs_of
from moeload_bench.results.record import Result
from moeload_bench.results.run_result import RunResult
from moeload_bench.results.statistics import Claim, Interval, RunMeans, alike, log_ratio, possible_ranks, told_apart
from moeload_bench.scoring.catalogue import lower_is_better, metric_names, ratio_metric
from moeload_bench.scoring.floors import FLOOR_NAMES, excess
from moeload_bench.suites.suite import CROSSING, STATES
from moeload_bench.words import page

Values = tuple[float | None, ...]
Sums = tuple[tuple[FloatArray, IntArray], tuple[FloatArray, IntArray]]
"""Sums of log ratios and their numbers, by run, state and horizon: of all windows, and of those that cross."""
ALL = "all"
"""In place of a state: all origins, whatever the state."""
NOTHING = "-"
FEW = 8
"""Fewer values than this numpy adds one after the other, as `sum` does in a tenth of the time."""

COLUMNS: dict[str, tuple[str, str]] = {
    "forecaster": ("Forecaster", "Who forecast"),
    "recipe": ("Recipe", "The recipe whose runs are meant, or all of the suite's"),
    "state": ("State", "State of the run at the origin; crossing: the window contains a change of state"),
    "horizon": ("Horizon", "Training steps ahead, or all horizons of the suite"),
    "metric": ("Metric", f"A name of the catalogue; {page('docs/methods/metrics.md')} says which direction is better"),
    "value": ("Value", "Mean over runs of means over origins and layers"),
    "excess": ("Excess", "Over floor_batch: sqrt(max(0, error² - floor²))"),
    "skill": ("Skill", "1 - geometric mean of the error ratio to the reference"),
    "new_recipe": ("95 %, a new recipe", "Interval of skill; claim: a new recipe"),
    "new_seeds": ("95 %, new seeds", "Interval of skill; claim: these recipes, new seeds"),
    "low": ("95 % from", "Lower end of the interval of skill; claim: a new recipe"),
    "high": ("95 % to", "Upper end of it"),
    "ranks": ("Ranks", "Least to greatest rank that it can have on a new recipe; all sets at once, 95 %"),
    "win_rate": ("Win rate", "Part of the tasks with the better value"),
    "regret": ("Regret", "regret@quarter on the same tasks: excess imbalance of the plan over the best one"),
    "ms": ("ms", "CPU time per answered origin, observing included"),
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

    def __init__(
        self, results: Sequence[Result], metric: str, reference: Result | None, tasks: SameTasks | None = None
    ) -> None:
        """Take results and a reference, and their ``tasks`` where scores by another metric have them already."""
        self._every, self.horizons = tuple(results), results[0].suite.horizons
        self.metric, self.ratio = metric, ratio_metric(metric)
        reference = reference if self.ratio else None
        self.reference = None if reference is None else reference.name
        outside = [] if reference is None or any(one is reference for one in results) else [reference]
        self._tasks = tasks or SameTasks([*results, *outside])
        self.at_R: list[int] | None = None
        """Places of the runs that are looked at; None for all."""
        self._kept: dict[Any, Any] = {}  # shared with the standings on some of the runs
        self._values: dict[str, tuple[FloatArray, IntArray, list[int]]] = {}

    @property
    def errors(self) -> Errors:
        """Return the metric, task by task, of the results and the reference; on all runs."""
        return self._tasks.errors(self.metric)

    @property
    def ratios(self) -> Errors:
        """Return the metric that skill is a ratio of, task by task; on all runs."""
        return self._tasks.errors(self.ratio or self.metric)

    @property
    def runs(self) -> list[RunResult]:
        """Return the runs that are looked at, of the first result."""
        runs = self._every[0].runs
        return [*runs] if self.at_R is None else [runs[r] for r in self.at_R]

    @cached_property
    def results(self) -> tuple[Result, ...]:
        """Return the results with the runs that are looked at."""
        return self._every if self.at_R is None else tuple(with_runs_of(self._every, {run.trace for run in self.runs}))

    def on(self, runs: Collection[str]) -> Standings:
        """Return the same scores on some of the runs; what was computed of each run is not computed again."""
        found = copy(self)
        found._values = {}
        found.__dict__.pop("results", None)
        found.at_R = [r for r, run in enumerate(self._every[0].runs) if run.trace in runs]
        return found

    def rows(self, state: str, horizon: int | None = None) -> list[Row]:
        """Return a row per forecaster, in their order."""
        at = slice(None) if horizon is None else [self.horizons.index(horizon)]
        floor_K = self.floor(state, "floor_batch")
        skills: list[float] = [float("nan")] * len(self.results)
        claims: list[list[Interval | None]] = []
        if self.reference:
            means = self.run_means(self.reference, state, horizon)
            skills, claims = means.skill_F.tolist(), [means.intervals(claim) for claim in CLAIMS]
        rows = []
        mean_FK, origins_FK, runs_F = self.means(state)
        over_FK = excess(mean_FK, np.array(floor_K, dtype=np.float64)) if floor_K else mean_FK[:, :0]
        excess_FK = (over_FK[:, at] if floor_K else over_FK).tolist()
        columns = zip(self.results, mean_FK[:, at].tolist(), excess_FK, origins_FK[:, at].tolist(), runs_F, strict=True)
        for i, (result, value_K, over_K, origins_K, runs) in enumerate(columns):
            known = not np.isnan(skills[i])
            rows.append(Row(
                result, state, none_for_nan(value_K), none_for_nan(over_K), tuple(origins_K), runs,
                skills[i] if known else None,
                tuple(one for found in claims if (one := found[i]) is not None) if known else (),
            ))  # fmt: skip
        return rows

    def run_means(self, base: str | None, state: str, horizon: int | None = None) -> RunMeans:
        """Return the runs' mean log ratios of every result, and a reference elsewhere, to one of them (the first)."""
        base, of = base or self._every[0].name, self.ratios.by_forecaster
        sums = self.keep(base, lambda: self._sums(log_ratio(np.stack(list(of.values())), of[base])))
        return self._means_of(sums, state, horizon)

    def _means_of(self, sums: Sums, state: str, horizon: int | None) -> RunMeans:
        """Return the means of runs in one state, at one horizon or all."""
        states = slice(None) if state == ALL else [STATES.index(state)] if state in STATES else []
        total_XRSK, count_XRSK = sums[int(state == CROSSING)]
        at = [k for k, own in enumerate(self.horizons) if horizon in (None, own)]
        total_XR, count_XR = (
            (each[..., at] if state == CROSSING else each[:, :, states][..., at]).sum(axis=(2, 3))
            for each in (total_XRSK, count_XRSK)
        )
        means = RunMeans.of_sums(total_XR, count_XR, self.ratios.tasks)
        return means if self.at_R is None else means.on(self.at_R)

    def _sums(self, ratio_XT: FloatArray) -> Sums:
        """Return sums of ratios and their numbers by run, state and horizon, of all windows and of those that cross."""
        errors = self.ratios
        (number_T, recipe_R), K = errors.tasks.by_run, len(self.horizons)
        shape = (len(ratio_XT), len(recipe_R), len(STATES), K)
        state_T = np.array([STATES.index(state) for state in errors.state_T])
        cell_T = (number_T * len(STATES) + state_T) * K + np.arange(len(number_T)) % K
        place_XT = cell_T + math.prod(shape[1:]) * np.arange(shape[0])[:, None]

        def summed(known_XT: BoolArray) -> tuple[FloatArray, IntArray]:
            place, size = place_XT[known_XT], math.prod(shape)
            total = np.bincount(place, weights=ratio_XT[known_XT], minlength=size)
            return np.asarray(total.reshape(shape), np.float64), np.bincount(place, minlength=size).reshape(shape)

        known_XT = np.isfinite(ratio_XT)
        return summed(known_XT), summed(known_XT & errors.crossing_T)

    def places(self, state: str, horizon: int | None = None) -> NDArray[np.intp]:
        """Return where the tasks of a state are, at one horizon or all; on all runs."""
        found: NDArray[np.intp] = self.keep((state, horizon), lambda: in_state(self.errors, state, horizon))
        return found

    def has(self, state: str) -> bool:
        """Return whether a task of the runs that are looked at is in a state."""
        number_T, recipe_R = self.errors.tasks.by_run
        looked_R = range(len(recipe_R)) if self.at_R is None else self.at_R
        return bool(np.isin(number_T[self.places(state)], looked_R).any())

    def keep(self, key: Any, make: Callable[[], Any]) -> Any:
        """Return what was made for a key of these scores on all runs, or make it."""
        if key not in self._kept:
            self._kept[key] = make()
        return self._kept[key]

    def means(self, state: str) -> tuple[FloatArray, IntArray, list[int]]:
        """Return of each result the mean over runs and how many origins have a value, [F, K], and runs with any."""
        if state in self._values:
            return self._values[state]
        of_run_FRK, origins_FRK = self.keep((self.metric, state), lambda: self._run_values(state))
        at, F = slice(None) if self.at_R is None else self.at_R, len(self._every)
        of_run_FRK, origins_FRK = of_run_FRK[:F, at], origins_FRK[:F, at]
        runs_F = (~np.isnan(of_run_FRK)).any(axis=2).sum(axis=1).tolist()
        self._values[state] = row_means(of_run_FRK.transpose(0, 2, 1)), origins_FRK.sum(axis=1), runs_F
        return self._values[state]

    def _run_values(self, state: str) -> tuple[FloatArray, IntArray]:
        """Return the means of each run over its origins in a state, and how many have a value, both [F, R, K]."""
        number_T, recipe_R = self.errors.tasks.by_run
        K = len(self.horizons)
        at = self.places(state)
        error_FT = np.full((len(self.errors.by_forecaster), len(number_T)), np.nan)
        error_FT[:, at] = np.stack(list(self.errors.by_forecaster.values()))[:, at]
        error_FNK = error_FT.reshape(len(error_FT), -1, K)
        mean_FRK = np.full((len(error_FT), len(recipe_R), K), np.nan)
        origins_FRK = np.zeros(mean_FRK.shape, dtype=np.int64)
        for r in range(len(recipe_R)):
            of_run_FKN = error_FNK[:, number_T[::K] == r].transpose(0, 2, 1)
            mean_FRK[:, r], origins_FRK[:, r] = row_means(of_run_FKN), (~np.isnan(of_run_FKN)).sum(axis=2)
        return mean_FRK, origins_FRK

    def ranks(self, state: str, horizon: int | None = None) -> dict[str, tuple[int, int]]:
        """Return the ranks that each forecaster can have on a new recipe; empty where a pair cannot be tested."""
        if not self.ratio:
            return {}
        names = [result.name for result in self._every]
        first_P, second_P = np.triu_indices(len(names), 1)
        sums = self.keep(("pairs",), lambda: self._sums(self._pair_ratios(names, first_P, second_P)))
        means = self._means_of(sums, state, horizon)
        apart = told_apart(names, means.skill_F, means.p_F)
        return {} if apart is None else possible_ranks(names, apart)

    def _pair_ratios(self, names: Sequence[str], first_P: NDArray[np.intp], second_P: NDArray[np.intp]) -> FloatArray:
        """Return the log ratio of each pair's second result to its first one, task by task [P, T]."""
        error_FT = np.stack([self.ratios.by_forecaster[name] for name in names])
        return log_ratio(error_FT[second_P], error_FT[first_P])

    def floor(self, state: str, floor: str) -> Values:
        """Return the mean over runs [K] of a floor of the metric in a state; empty where no run has it."""
        found = [
            run.floors[state][floor][self.metric]
            for run in self.runs
            if self.metric in run.floors.get(state, {}).get(floor, {})
        ]
        return tuple(present_mean(values) for values in zip(*found, strict=True))

    def floors(self) -> dict[tuple[str, str], Values]:
        """Return the floors by (state, floor), where there are any."""
        pairs = [(state, floor) for state in (*STATES, CROSSING) for floor in FLOOR_NAMES]
        return {(state, floor): found for state, floor in pairs if (found := self.floor(state, floor))}

    @property
    def marks(self) -> dict[str, str]:
        """Return the weakest mark of each floor over the runs that have it; `not given` where none has."""
        weakest = ("approximate", "exact", "not given").index
        floors = {floor for run in self.runs for floor in run.floor_marks}
        return {
            floor: min((run.floor_marks[floor] for run in self.runs if floor in run.floor_marks), key=weakest)
            for floor in floors
        }


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
    if not has_metric(results, metric):
        if metric not in metric_names():
            raise not_found("metric", metric, metric_names())
        return None
    return grid_of(Standings(results, metric, reference_of(results)))


def grid_of(scores: Standings) -> ResultGrid:
    """Return the grid of scores, of all runs or of some."""
    rows = [row for state in (*STATES, CROSSING) if scores.has(state) for row in _ordered(scores, state)]
    there = {row.state for row in rows}
    floors = {key: found for key, found in scores.floors().items() if key[0] in there}
    return ResultGrid(scores, scores.results, scores.metric, scores.horizons, tuple(rows), floors, scores.marks)


def known_grid(results: Sequence[Result], metric: str) -> ResultGrid:
    """Return the grid of a metric that the results have; raise `NotFoundError` where they do not."""
    grid = result_grid(results, metric) if len(results) else None
    if grid is None:
        raise not_found("metric", metric, metrics_in(results))
    return grid


def metrics_in(results: Iterable[Result]) -> set[str]:
    """Return every metric that some task of the results has."""
    return {metric for result in results for run in result.runs for task in run.tasks for metric in task.metrics}


def has_metric(results: Iterable[Result], metric: str) -> bool:
    """Return whether some task of the results has a metric."""
    return any(metric in task.metrics for result in results for run in result.runs for task in run.tasks)


def _ordered(scores: Standings, state: str) -> list[Row]:
    """Return the rows of a state, the best first: by skill, or by the metric's values where it has none."""
    rows, lower = scores.rows(state), lower_is_better(scores.metric)
    if scores.ratio is not None or lower is None:
        return by_skill(rows)

    def mean(row: Row) -> float:
        value = present_mean(row.value_K)
        return value if value is not None else np.inf if lower else -np.inf

    return sorted(rows, key=mean, reverse=not lower)


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


def in_state(errors: Errors, state: str, horizon: int | None = None) -> NDArray[np.intp]:
    """Return where the tasks of a state are, of windows that cross a change of state, or of all states; at one horizon
    or all.
    """
    if state == CROSSING:
        return errors.where(crossing=True, horizon=horizon)
    return errors.where(state=None if state == ALL else state, horizon=horizon)


def row_means(values_XN: FloatArray) -> FloatArray:
    """Return the mean along the last axis of the values that are there, NaN where there is none."""
    value_RN = values_XN.reshape(-1, values_XN.shape[-1])
    known_RN = ~np.isnan(value_RN)
    mean_R, whole_R = np.full(len(value_RN), np.nan), known_RN.all(axis=1)
    if value_RN.shape[1] and whole_R.any():
        mean_R[whole_R] = value_RN[whole_R].mean(axis=1)
    some_R = np.flatnonzero(known_RN.any(axis=1) & ~whole_R)
    for at_S, pattern_N in alike(known_RN[some_R]):
        mean_R[some_R[at_S]] = value_RN[np.ix_(some_R[at_S], np.flatnonzero(pattern_N))].mean(axis=1)
    return mean_R.reshape(values_XN.shape[:-1])


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
    if len(kept) < FEW:
        return sum(kept) / len(kept) if kept else None
    return float(np.mean(kept))


def none_for_nan(values: Iterable[float]) -> Values:
    """NaN becomes None."""
    return tuple(None if math.isnan(value) else value for value in values)


def _in_state(task_state: str, crossing: Sequence[bool], state: str) -> bool:
    return any(crossing) if state == CROSSING else state in (ALL, task_state)

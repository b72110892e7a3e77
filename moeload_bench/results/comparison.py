"""Results side by side: the same tasks of several forecasters as arrays, and skill against the reference.

Axis letters: T tasks, one per (run, origin, horizon); K suite horizons.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from moeload_bench.arrays import FloatArray
from moeload_bench.errors import ResultError
from moeload_bench.files import PACKAGE
from moeload_bench.results import statistics
from moeload_bench.results.record import Result, load_result
from moeload_bench.results.statistics import Claim, Interval, Tasks
from moeload_bench.suites.suite import near_twins_of

CLAIMS: tuple[Claim, ...] = ("a new recipe", "these recipes, new seeds")
WINDOWED = "sw_avg"
"""The baseline whose every entry is a fixed window."""


@dataclass(frozen=True, eq=False)
class Errors:
    """One metric of several forecasters on the same tasks; NaN where a task has no value."""

    tasks: Tasks
    horizon_T: NDArray[np.int64]
    state_T: tuple[str, ...]
    crossing_T: NDArray[np.bool_]
    by_forecaster: Mapping[str, FloatArray]

    def select(self, *, state: str | None = None, horizon: int | None = None) -> Errors:
        """Return the tasks of one state, one horizon, or both."""
        return self.at(self.where(state=state, horizon=horizon).tolist())

    def where(
        self, *, state: str | None = None, horizon: int | None = None, crossing: bool | None = None
    ) -> NDArray[np.intp]:
        """Return the places of the tasks that `select` returns; of windows that (do not) cross a change of state."""
        keep = np.ones(len(self.horizon_T), dtype=np.bool_)
        if state is not None:
            keep &= np.array(self.state_T, dtype=object) == state
        if horizon is not None:
            keep &= self.horizon_T == horizon
        if crossing is not None:
            keep &= self.crossing_T == crossing
        return np.flatnonzero(keep)

    def at(self, at: Sequence[int]) -> Errors:
        """Return the tasks at these places."""
        return Errors(
            Tasks([self.tasks.recipe_T[i] for i in at], [self.tasks.run_T[i] for i in at], self.tasks.twins),
            self.horizon_T[at],
            tuple(self.state_T[i] for i in at),
            self.crossing_T[at],
            {name: error_T[at] for name, error_T in self.by_forecaster.items()},
        )


def errors_of(results: Sequence[Result], metric: str) -> Errors:
    """Return the metric of results on one suite; raise `ResultError` when they do not have the same tasks."""
    return SameTasks(results).errors(metric)


class SameTasks:
    """Results on the same tasks, and any metric of them, read once.

    Raises `ResultError` when the results do not have the same tasks.
    """

    def __init__(self, results: Sequence[Result]) -> None:
        self._results, first = results, results[0]
        keys = _task_keys(first)
        for result in results:
            if result.suite.sha256 != first.suite.sha256:
                raise ResultError(f"{result.name} was scored on suite {result.suite.name} {result.suite.sha256[:12]}, "
                                  f"{first.name} on {first.suite.name} {first.suite.sha256[:12]}")  # fmt: skip
            if result.scoring_version != first.scoring_version:
                raise ResultError(f"{result.name} was scored by version {result.scoring_version} of the scoring, "
                                  f"{first.name} by {first.scoring_version}")  # fmt: skip
            if _task_keys(result) != keys:
                raise ResultError(f"{result.name} and {first.name} do not have the same tasks on the same traces")
        self._made: dict[str, Errors] = {}
        self._horizons = first.suite.horizons
        tasks, K = [task for run in first.runs for task in run.tasks], len(self._horizons)
        runs = [run for run in first.runs for _ in range(len(run.tasks) * K)]
        twins = near_twins_of(first.suite.name, first.suite.sha256)
        self._tasks = Tasks([run.recipe for run in runs], [run.trace for run in runs], twins)
        self._state_T = tuple(state for task in tasks for state in [task.state] * K)
        self._crossing_T = np.array([crosses for task in tasks for crosses in task.crossing], dtype=np.bool_)
        self._horizon_T = np.tile(np.array(self._horizons, dtype=np.int64), len(tasks))

    def errors(self, metric: str) -> Errors:
        """Return a metric of all results, task by task."""
        if metric not in self._made:
            K = len(self._horizons)
            values = {result.name: _values(result, metric, K) for result in self._results}
            self._made[metric] = Errors(self._tasks, self._horizon_T, self._state_T, self._crossing_T, values)
        return self._made[metric]


def _task_keys(result: Result) -> list[tuple[str, str, int]]:
    return [(run.trace, run.data_sha256, task.origin) for run in result.runs for task in run.tasks]


def _values(result: Result, metric: str, K: int) -> FloatArray:
    none = (None,) * K
    values = [value for run in result.runs for task in run.tasks for value in task.metrics.get(metric, none)]
    return np.array(values, dtype=np.float64)


def with_runs_of(results: Sequence[Result], traces: Collection[str]) -> list[Result]:
    """Return the results with these runs only."""
    return [
        result.model_copy(update={"runs": tuple(run for run in result.runs if run.trace in traces)})
        for result in results
    ]


def reference_of(results: Sequence[Result]) -> Result | None:
    """Return the result of the suite's reference: among those given, else the one that comes with the package, on the
    runs of those given, else None.
    """
    suite = results[0].suite
    for result in results:
        if result.forecaster.target == suite.reference and not result.forecaster.kwargs:
            return result
    bundled = bundled_reference(suite.name, suite.sha256, results[0].scoring_version)
    return None if bundled is None else with_runs_of([bundled], {run.trace for run in results[0].runs})[0]


def bundled_reference(suite: str, suite_sha256: str, scoring_version: int) -> Result | None:
    """Return the reference's result that comes with the package for a suite of this name and content, scored alike."""
    path = PACKAGE / "data" / "reference" / f"{suite}.json"
    if Path(suite).name != suite or not path.is_file():
        return None
    bundled = _loaded_once(path)
    same = bundled.suite.sha256 == suite_sha256 and bundled.scoring_version == scoring_version
    return bundled if same else None


_loaded_once = lru_cache(maxsize=4)(load_result)
"""Whoever checks all entries of a suite asks for the reference with each."""


def skill(errors: Errors, forecaster: str, reference: str) -> tuple[float, list[Interval]]:
    """Return the skill of a forecaster against the reference on these tasks, and its intervals by claim where there are
    some.
    """
    ratio_T = statistics.log_ratio(errors.by_forecaster[forecaster], errors.by_forecaster[reference])
    means = statistics.RunMeans.of(ratio_T[None], errors.tasks)
    found = [means.intervals(claim)[0] for claim in CLAIMS]
    return float(means.skill_F[0]), [interval for interval in found if interval is not None]


def best_window(results: Sequence[Result], metric: str) -> tuple[str, int] | None:
    """Return the fixed window with the least error over all tasks, and of how many it is the best; None without any.

    Windows are the results of the baseline `sw_avg`, whatever its arguments.
    """
    windows = [result for result in results if result.forecaster.target.partition("@")[0] == WINDOWED]
    if not windows:
        return None
    errors = errors_of(windows, metric)
    best = statistics.best_in_hindsight(errors.by_forecaster, errors.tasks)
    return None if best is None else (best, len(windows))

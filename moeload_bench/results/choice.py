"""Which forecaster errs least in a state, and what a test tells from it: the words above a table, in its order.

On a suite the test is over recipes, as in `results.statistics`: near twins count once, at least five recipes, corrected
by Holm. On one run neighbouring windows are alike, so it is cut into consecutive parts, which are compared in pairs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from moeload_bench.arrays import FloatArray
from moeload_bench.results.decision import LEAST_PARTS, interval_of
from moeload_bench.results.grid import ResultGrid, Row, result_grid
from moeload_bench.results.record import Result
from moeload_bench.results.statistics import MIN_RECIPES, compare, log_ratio
from moeload_bench.scoring.catalogue import forecast_metrics, has_skill
from moeload_bench.suites.suite import STATES
from moeload_bench.words import listed

PARTS = 10
"""Groups of neighbouring origins that are compared on one run."""
ALPHA = 0.05


@dataclass(frozen=True)
class Verdict:
    """In one state: the forecaster with the least error, and those that a 95 % test tells from it.

    ``more``: how much more error than the best one every other has, as a fraction, in the table's order. ``over``: what
    the test is over; ``untested``: why there is none. ``by_horizon``: where the least error is whose.
    """

    state: str
    metric: str
    best: str
    more: Mapping[str, float] = field(default_factory=dict)
    apart: tuple[str, ...] = ()
    over: str = ""
    untested: str = ""
    by_horizon: Mapping[str, tuple[int, ...]] = field(default_factory=dict)

    @property
    def text(self) -> str:
        """Return what errs least, by how much, what a test says, and where horizons differ."""
        if not self.more:
            return f"{self.state}: {self.best} is the only one, so there is no choice ({self.metric})."
        following, more = next(iter(self.more.items()))
        text = (
            f"{self.state}: {self.best} has the least error ({self.metric}). The next one, {following}, {_more(more)}."
        )
        alike = [name for name in self.more if name not in self.apart]
        if self.untested:
            text += f" Not tested: {self.untested}."
        else:
            told = f" tells it from {listed(self.apart)}" if self.apart else ""
            both = ", " if self.apart and alike else ""
            same = f"{both}does not tell it from {listed(alike)}" if alike else ""
            text += f" A 95 % test over {self.over}{told}{same if both else f' {same}' if same else ''}."
        if len(self.by_horizon) > 1:
            least = (f"{name} at h={', '.join(f'{h:,}' for h in at)}" for name, at in self.by_horizon.items())
            text += f" Least by horizon: {'; '.join(least)}."
        return text


def _more(more: float) -> str:
    """Say how an error that is larger by this fraction compares."""
    if more >= 1:
        return f"errs {1 + more:.1f} times as much"
    return f"has {100 * more:.{0 if more >= 0.1 else 1}f} % more error" if more >= 0.0005 else "is as good"


def verdicts(results: Sequence[Result], metric: str) -> Iterator[Verdict]:
    """Yield the verdict of each state that has origins, by the metric if it is an error, else by the primary one."""
    metric = metric if has_skill(metric) else forecast_metrics()[0].name
    grid = result_grid(results, metric)
    if grid is None:
        return
    for state in STATES:
        rows = [row for row in grid.of_state(state) if row.value is not None and not _failed(row)]
        if rows:
            yield _verdict(grid, rows)


def _failed(row: Row) -> bool:
    """Return whether a task of the row's state failed."""
    return any(task.state == row.state and task.failure is not None for run in row.result.runs for task in run.tasks)


def _verdict(grid: ResultGrid, rows: Sequence[Row]) -> Verdict:
    state = rows[0].state
    errors = grid.scores.errors.select(state=state)
    error_T = {row.forecaster: errors.by_forecaster[row.forecaster] for row in rows}
    if rows[0].skill is None:  # without the reference the rows of the table stand as they came
        base_T = next(iter(error_T.values()))
        error_T = dict(sorted(error_T.items(), key=lambda item: float(np.nanmean(log_ratio(item[1], base_T)))))
    best = next(iter(error_T))
    worse_T = {name: log_ratio(each_T, error_T[best]) for name, each_T in error_T.items() if name != best}
    apart: tuple[str, ...] = ()
    untested = over = ""
    if len(grid.results[0].runs) == 1:
        over = "parts of this run"
        parts = {name: _parts(ratio_T, len(grid.horizons)) for name, ratio_T in worse_T.items()}
        apart = tuple(name for name, part_N in parts.items() if interval_of(part_N)[0] > 0)
        if any(np.isfinite(part_N).sum() < LEAST_PARTS for part_N in parts.values()):
            untested = f"fewer than {LEAST_PARTS} parts with an origin"
    else:
        tests = compare(error_T, best, errors.tasks)
        recipes = len({errors.tasks.twins.get(name, name) for name in errors.tasks.recipe_T})
        over = f"{recipes} recipes"
        apart = tuple(one.forecaster for one in tests if one.p_holm is not None and one.p_holm < ALPHA)
        if any(one.p_holm is None for one in tests):
            untested = f"{recipes} recipes (near twins count once), {MIN_RECIPES} are needed"
    by_horizon: dict[str, tuple[int, ...]] = {}
    for k, horizon in enumerate(grid.horizons):
        known = [row for row in rows if row.value_K[k] is not None]
        if known:
            least = min(known, key=lambda row: row.value_K[k] or 0.0).forecaster
            by_horizon[least] = (*by_horizon.get(least, ()), horizon)
    more = {name: max(0.0, float(np.exp(np.nanmean(ratio_T)) - 1)) for name, ratio_T in worse_T.items()}
    return Verdict(state, grid.metric, best, more, apart, over, untested, by_horizon)


def _parts(ratio_T: FloatArray, horizons: int) -> FloatArray:
    """Return means over neighbouring origins and the horizons that have a value."""
    ratio_OK = ratio_T.reshape(-1, horizons)
    known_K = np.isfinite(ratio_OK).all(axis=0)
    if not known_K.any():
        return np.empty(0)
    return np.array([part.mean() for part in np.array_split(ratio_OK[:, known_K], min(PARTS, len(ratio_OK)))])

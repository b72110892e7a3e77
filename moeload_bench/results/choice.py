"""Which forecaster errs least in a state, and what a test tells from it: the words above a table, in its order.

On a suite the test is over recipes, as in `results.skill`: near twins count once, at least five recipes, corrected
by Holm. On one run neighbouring windows are alike, so it is cut into consecutive parts, which are compared in pairs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from moeload_bench.arrays import FloatArray
from moeload_bench.results.columns import metric_columns
from moeload_bench.results.entry import late_names
from moeload_bench.results.report import Report, ReportRow, report_of
from moeload_bench.results.results import Results
from moeload_bench.results.significance import p_values_against
from moeload_bench.results.skill import LEAST_PARTS, MIN_RECIPES, interval_of, ratios_to
from moeload_bench.scoring.catalogue import PRIMARY, has_skill
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
    separated: tuple[str, ...] = ()
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
        inseparable = [name for name in self.more if name not in self.separated]
        if self.untested:
            text += f" No significance test: {self.untested}."
        else:
            separation = f" tells it from {listed(self.separated)}" if self.separated else ""
            both = ", " if self.separated and inseparable else ""
            same = f"{both}does not tell it from {listed(inseparable)}" if inseparable else ""
            text += f" A 95 % test over {self.over}{separation}{same if both else f' {same}' if same else ''}."
        if len(self.by_horizon) > 1:
            least = (f"{name} at h={', '.join(f'{h:,}' for h in best)}" for name, best in self.by_horizon.items())
            text += f" Least by horizon: {'; '.join(least)}."
        return text


def _more(more: float) -> str:
    """Say how an error that is larger by this fraction compares."""
    if more >= 1:
        return f"errs {1 + more:.1f} times as much"
    return f"has {100 * more:.{0 if more >= 0.1 else 1}f} % more error" if more >= 0.0005 else "is as good"


def verdicts(results: Results, metric: str) -> Iterator[Verdict]:
    """Yield the verdict of each state that has origins, by the metric if it is an error, else by the primary one.

    What came after a season had closed is left out, unless there is nothing else.
    """
    metric = metric if has_skill(metric) else PRIMARY
    if metric not in metric_columns(results.table):
        return
    results = results.select([name for name in results.names if name not in late_names(results.entries)] or None)
    report, failures = report_of(results, metric), results.failures
    for state in (state for state in STATES if state in report.states):
        failed = set(failures.loc[failures["state"] == state, "forecaster"])
        rows = [
            row for row in report.rows_in(state) if row.forecaster not in failed and not np.isnan(row.value_K).all()
        ]
        if rows:
            yield _verdict(report, rows)


def _verdict(report: Report, rows: Sequence[ReportRow]) -> Verdict:
    state, results = rows[0].state, report.results
    errors = results.errors(report.metric)
    errors = errors[errors.index.get_level_values("state") == state][[row.forecaster for row in rows]]
    if np.isnan(rows[0].skill):  # without the reference the rows of the table stand as they came
        errors = errors[ratios_to(errors, str(errors.columns[0])).mean().sort_values(kind="stable").index]
    best, *others = map(str, errors.columns)
    ratios = ratios_to(errors, best)[others]
    separated: tuple[str, ...] = ()
    untested = ""
    if len(results.traces) == 1:
        over = "parts of this run"
        parts = {name: _parts(ratios[name].to_numpy(), len(report.horizons)) for name in others}
        separated = tuple(name for name, part_N in parts.items() if interval_of(part_N)[0] > 0)
        if any(np.isfinite(part_N).sum() < LEAST_PARTS for part_N in parts.values()):
            untested = f"fewer than {LEAST_PARTS} parts with an origin"
    else:
        tests = p_values_against(results.select([best, *others]), best, ["state"], report.metric)
        tests = tests[tests["state"] == state]
        recipes = len({results.suite.twins.get(name, name) for name in errors.index.get_level_values("recipe")})
        over = f"{recipes} recipes"
        separated = tuple(tests.loc[tests["p_holm"] < ALPHA, "forecaster"])
        if tests["p_holm"].isna().any():
            few = f"{recipes} different recipes, {MIN_RECIPES} are needed"
            untested = "the season had closed" if late_names(results.entries) else few
    by_horizon: dict[str, tuple[int, ...]] = {}
    for k, horizon in enumerate(report.horizons):
        scored = [row for row in rows if not np.isnan(row.value_K[k])]
        if scored:
            least = min(scored, key=lambda row: row.value_K[k]).forecaster
            by_horizon[least] = (*by_horizon.get(least, ()), horizon)
    more = {name: max(0.0, float(np.exp(ratios[name].mean()) - 1)) for name in others}
    return Verdict(state, report.metric, best, more, separated, over, untested, by_horizon)


def _parts(ratio_T: FloatArray, horizons: int) -> FloatArray:
    """Return means over neighbouring origins and the horizons that have a value."""
    ratio_OK = ratio_T.reshape(-1, horizons)
    known_K = np.isfinite(ratio_OK).all(axis=0)
    if not known_K.any():
        return np.empty(0)
    return np.array([part.mean() for part in np.array_split(ratio_OK[:, known_K], min(PARTS, len(ratio_OK)))])

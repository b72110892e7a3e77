"""What to take: the best, what one run cannot tell from it, and the cheapest of those.

Neighbouring windows of a run are alike, so a run is cut into consecutive parts and the parts are compared in pairs, by
a 95 % t interval. It says what this run could show, not what another would: no claim of `results.statistics`.

Axis letters: O origins, K horizons, N parts.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from moeload_bench.placement.replan import PolicyRun, best_run
from moeload_bench.results.record import Result
from moeload_bench.results.statistics import EXACT, log_ratio, t_quantile
from moeload_bench.scoring.catalogue import forecast_metrics, has_skill
from moeload_bench.suites.suite import STATES
from moeload_bench.words import ordinal

PARTS = 10
"""Groups of neighbouring origins that are compared."""
SAME_ERROR = 0.02
"""Mean log ratio of errors below which two forecasters serve alike, whatever the interval says."""
SAME_PERCENT = 0.1
"""Points of the step time below which two policies save alike."""
WORSE_BY = 0.05
"""Part of the best saving (or of the least error) that nobody gives up, however wide the interval."""
LEAST_PARTS = 3
"""Parts without which nothing is tested: an interval from fewer says nothing."""

Verdict = Literal["alike", "apart", "worse", "untested"]
"""Beside the best: serves alike or not told from it; told from it by the test; not told from it, but worse by more than
`WORSE_BY`; too few parts for the test."""


@dataclass(frozen=True)
class ForecasterChoice:
    """In one state: the best forecaster, those not told apart from it (itself first), and the cheapest of them.

    The others: ``apart`` were told from it by the test; ``worse`` were not, but have over `WORSE_BY` more error; for
    ``untested`` there were too few origins.

    ``ms`` and ``best_ms``: what the cheapest and the best one take per answered origin, observing included. ``more``:
    how much more error than the best one's every other one has, as a fraction, by name and rising.
    """

    state: str
    metric: str
    best: str
    alike: tuple[str, ...]
    cheapest: str
    ms: float
    best_ms: float = 0.0
    more: Mapping[str, float] = field(default_factory=dict)
    apart: tuple[str, ...] = ()
    worse: tuple[str, ...] = ()
    untested: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        """Return what is best and by how much, what cannot be told from it, and what to take."""
        if not self.more:
            return f"{self.state}: {self.best} is the only one, so there is no choice ({self.metric})."
        following, more = next(iter(self.more.items()))
        lead = f"The next one, {following}, {_more_error(more)}{_WIDE if following in self.worse else ''}."
        if len(self.alike) == 1:
            return " ".join([f"{self.state}: take {self.best} ({self.metric}).", lead, *self._others(following)])
        others = _listed([name for name in self.alike if name != self.best])
        cost = f"{self.ms:,.0f} ms a forecast" if self.ms >= 10 else f"{self.ms:.2g} ms a forecast"
        if self.cheapest == self.best:
            take = f"Take it: it costs least, {cost}"
        else:
            times = self.best_ms / self.ms if self.ms else 1.0
            less = f", {_part(times)} the best one's cost" if times >= 2 else ""
            take = f"Take {self.cheapest}: it costs least, {cost}{less}"
        return f"{self.state}: {self.best} is best ({self.metric}). {lead} {others} cannot be told from it. {take}."

    def _others(self, following: str) -> Iterator[str]:
        """Yield what the test showed of those that are not taken; where it showed nothing, why they are not."""
        if self.apart:
            yield f"A 95 % test tells it from {_listed(self.apart)}."
        yield from (f"{name} {_more_error(self.more[name])}{_WIDE}." for name in self.worse if name != following)
        if self.untested:
            yield f"There are too few origins to test {_listed(self.untested)}."


_WIDE = "; the spread within these runs is too wide for a 95 % test"


def _more_error(more: float) -> str:
    """Say how an error that is larger by this fraction compares."""
    if more >= 1:
        return f"errs {1 + more:.1f} times as much"
    return f"has {100 * more:.{0 if more >= 0.1 else 1}f} % more error" if more >= 0.0005 else "is as good"


@dataclass(frozen=True)
class PolicyChoice:
    """The best policy on a run, those not told apart from it (itself first), and the cheapest of them: least moved."""

    best: PolicyRun
    alike: tuple[PolicyRun, ...]
    cheapest: PolicyRun

    @property
    def text(self) -> str:
        """Return one or two lines."""
        best, take = self.best, self.cheapest
        if take is best:
            more = "" if len(self.alike) == 1 else f", which moves least of {len(self.alike)} that save alike"
            return f"Take {_named(take)}{more}."
        less = best.saved_percent - take.saved_percent
        return (
            f"Take {_named(take)}: {take.replans} re-plans, {take.moved_mb / 1000:,.1f} GB moved, where the best, "
            f"{_named(best)}, makes {best.replans} and moves {best.moved_mb / 1000:,.1f} GB for {less:.2f} points "
            "more; this run cannot tell the two apart."
        )


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _part(times: float) -> str:
    """Return one so many-eth of something: `half`, `a 3rd of`, `a 100th of`, to one digit."""
    digits = 10 ** (len(str(int(times))) - 1)
    number = round(times / digits) * digits
    return "half" if number == 2 else f"a {ordinal(number)} of"


def _named(run: PolicyRun) -> str:
    return "the static layout" if run.policy == "static" else f"{run.policy}, k = {run.every:,}"


def choose_policy(runs: Sequence[PolicyRun]) -> PolicyChoice:
    """Return what to take of the policies of one comparison, the oracle aside; the static layout moves nothing."""
    real = [run for run in runs if run.policy != "oracle"]
    best = best_run(real)
    best_N, most = np.array(best.saved_parts), max(SAME_PERCENT, WORSE_BY * best.saved_percent)

    def same(run: PolicyRun) -> bool:
        less_N, less = best_N - np.array(run.saved_parts), best.saved_percent - run.saved_percent
        return _verdict(less_N, less, SAME_PERCENT, most) == "alike"

    alike = [run for run in real if run is not best and same(run)]
    alike = [best, *sorted(alike, key=lambda run: -run.saved_percent)]
    cheapest = min(alike, key=lambda run: (run.moved_mb, run.replans, -run.saved_percent))
    return PolicyChoice(best, tuple(alike), cheapest)


def choose_forecasters(results: Sequence[Result], metric: str) -> Iterator[ForecasterChoice]:
    """Yield what to take in each state that the traces have; horizons weighted alike, failed forecasters left out."""
    metric = metric if has_skill(metric) else forecast_metrics()[0].name
    for state in STATES:
        error = {result.name: _errors(result, state, metric) for result in results}
        usable = {name: value_OK for name, value_OK in error.items() if value_OK is not None}
        if not usable:
            continue
        known_K = np.isfinite(np.stack(list(usable.values()))).all(axis=(0, 1))
        if not known_K.any():
            continue
        known = {name: value_OK[:, known_K] for name, value_OK in usable.items()}
        parts = {name: _parts(value_OK) for name, value_OK in known.items()}
        base = known.get(results[0].suite.reference, next(iter(known.values())))
        best = min(known, key=lambda name: log_ratio(known[name], base).mean())  # the order of skill
        worse = {n: (np.log(parts[n]) - np.log(parts[best])).mean(axis=1) for n in parts}
        gap = {n: float(log_ratio(known[n], known[best]).mean()) for n in known}
        verdict = {n: _verdict(worse[n], gap[n], SAME_ERROR, WORSE_BY) for n in parts if n != best}
        alike, apart, too_much, untested = (
            tuple(n for n, one in verdict.items() if one == kind) for kind in ("alike", "apart", "worse", "untested")
        )
        cost = {result.name: result.per_forecast_s for result in results}
        cheapest = min([best, *alike], key=lambda name: cost[name])
        others = sorted((name for name in gap if name != best), key=lambda name: gap[name])
        yield ForecasterChoice(
            state,
            metric,
            best,
            (best, *alike),
            cheapest,
            ms=1000 * cost[cheapest],
            best_ms=1000 * cost[best],
            more={name: max(0.0, float(np.exp(gap[name]) - 1)) for name in others},
            apart=apart,
            worse=too_much,
            untested=untested,
        )


def _errors(result: Result, state: str, metric: str) -> NDArray[np.float64] | None:
    """Return the errors [O, K] over all runs in order; None if the state or the metric is missing, or a task failed."""
    tasks = [task for run in result.runs for task in run.tasks if task.state == state]
    if not tasks or any(task.failure is not None or metric not in task.metrics for task in tasks):
        return None
    rows = [[np.nan if value is None else value for value in task.metrics[metric]] for task in tasks]
    return np.array(rows, dtype=np.float64)


def _parts(value_OK: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return means over neighbouring origins [N, K]."""
    parts = np.array_split(value_OK, min(PARTS, len(value_OK)))
    return np.asarray(np.maximum(np.stack([part.mean(axis=0) for part in parts]), EXACT))


def _verdict(worse_N: NDArray[np.float64], gap: float, tolerance: float, most: float) -> Verdict:
    """Return the verdict on one that is worse by ``gap`` in all and by ``worse_N`` in each part.

    Within the tolerance it is alike. Else the test decides; what it cannot tell from zero is alike up to ``most``.
    """
    if gap <= tolerance:
        return "alike"
    known_N = worse_N[np.isfinite(worse_N)]
    if len(known_N) < LEAST_PARTS:
        return "untested"
    if _above_zero(known_N):
        return "apart"
    return "worse" if gap > most else "alike"


def _above_zero(value_N: NDArray[np.float64]) -> bool:
    """Return whether the 95 % t interval of the mean lies above zero."""
    half = t_quantile(len(value_N) - 1, 0.95) * value_N.std(ddof=1) / np.sqrt(len(value_N))
    return bool(value_N.mean() - half > 0)

"""What to take: the best, what one run cannot tell from it, and the cheapest of those.

Neighbouring windows of a run are alike, so a run is cut into consecutive parts and the parts are compared in pairs, by
a 95 % t interval. It says what this run could show, not what another would: no claim of `results.statistics`.

Axis letters: O origins, K horizons, N parts.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from moeload_bench.placement.replan import PolicyRun, best_run
from moeload_bench.results.record import Result, Results
from moeload_bench.results.statistics import EXACT
from moeload_bench.scoring.catalogue import METRICS, has_skill
from moeload_bench.suites.suite import STATES

PARTS = 10
"""Groups of neighbouring origins that are compared."""
SAME_ERROR = 0.02
"""Mean log ratio of errors below which two forecasters serve alike, whatever the interval says."""
SAME_PERCENT = 0.1
"""Points of the step time below which two policies save alike."""
WORSE_BY = 0.05
"""Part of the best saving (or of the least error) that nobody gives up, however wide the interval."""


@dataclass(frozen=True)
class ForecasterChoice:
    """In one state: the best forecaster, those not told apart from it (itself first), and the cheapest of them.

    ``ms``: what the cheapest one takes per answered origin, observing included.
    """

    state: str
    metric: str
    best: str
    alike: tuple[str, ...]
    cheapest: str
    ms: float

    @property
    def text(self) -> str:
        """One line."""
        if len(self.alike) == 1:
            return f"{self.state}: take {self.best}; the others are told apart from it ({self.metric})"
        others = ", ".join(name for name in self.alike if name != self.best)
        return (
            f"{self.state}: take {self.cheapest}, the cheapest ({self.ms:.2g} ms) of those that this run cannot tell "
            f"from the best, {self.best}: {others} ({self.metric})"
        )


@dataclass(frozen=True)
class PolicyChoice:
    """The best policy on a run, those not told apart from it (itself first), and the cheapest of them: least moved."""

    best: PolicyRun
    alike: tuple[PolicyRun, ...]
    cheapest: PolicyRun

    @property
    def text(self) -> str:
        """One or two lines."""
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


def _named(run: PolicyRun) -> str:
    return "the static layout" if run.policy == "static" else f"{run.policy}, k = {run.every:,}"


def choose_policy(runs: Sequence[PolicyRun]) -> PolicyChoice:
    """What to take of the policies of one comparison, the oracle aside; the static layout moves nothing."""
    real = [run for run in runs if run.policy != "oracle"]
    best = best_run(real)
    best_N, most = np.array(best.saved_parts), max(SAME_PERCENT, WORSE_BY * best.saved_percent)

    def same(run: PolicyRun) -> bool:
        return _same(best_N - np.array(run.saved_parts), best.saved_percent - run.saved_percent, SAME_PERCENT, most)

    alike = [run for run in real if run is not best and same(run)]
    alike = [best, *sorted(alike, key=lambda run: -run.saved_percent)]
    cheapest = min(alike, key=lambda run: (run.moved_mb, run.replans, -run.saved_percent))
    return PolicyChoice(best, tuple(alike), cheapest)


def choose_forecasters(results: Results, metric: str) -> Iterator[ForecasterChoice]:
    """What to take in each state that the traces have; horizons weighted alike, failed forecasters left out."""
    metric = metric if has_skill(metric) else METRICS[0].name
    for state in STATES:
        error = {result.name: _errors(result, state, metric) for result in results}
        usable = {name: value_OK for name, value_OK in error.items() if value_OK is not None}
        if not usable:
            continue
        known_K = np.isfinite(np.stack(list(usable.values()))).all(axis=(0, 1))
        if not known_K.any():
            continue
        parts = {name: _parts(value_OK[:, known_K]) for name, value_OK in usable.items()}
        mean = {name: np.maximum(value_OK[:, known_K].mean(axis=0), EXACT) for name, value_OK in usable.items()}
        least_K = np.min(list(mean.values()), axis=0)
        ratio = {name: float((mean_K / least_K).mean()) for name, mean_K in mean.items()}
        best = min(ratio, key=lambda name: ratio[name])
        worse = {n: (np.log(parts[n]) - np.log(parts[best])).mean(axis=1) for n in parts}
        gap = {n: np.log(ratio[n] / ratio[best]) for n in ratio}
        alike = [n for n in parts if n != best and _same(worse[n], gap[n], SAME_ERROR, WORSE_BY)]
        cost = {result.name: _seconds(result) for result in results}
        cheapest = min([best, *alike], key=lambda name: cost[name])
        yield ForecasterChoice(state, metric, best, (best, *alike), cheapest, 1000 * cost[cheapest])


def _errors(result: Result, state: str, metric: str) -> NDArray[np.float64] | None:
    """[O, K] over all runs in order; None where the state does not occur, a task failed or the metric is not there."""
    tasks = [task for run in result.runs for task in run.tasks if task.state == state]
    if not tasks or any(task.failure is not None or metric not in task.metrics for task in tasks):
        return None
    rows = [[np.nan if value is None else value for value in task.metrics[metric]] for task in tasks]
    return np.array(rows, dtype=np.float64)


def _seconds(result: Result) -> float:
    return float(np.mean([run.cost.per_forecast_s for run in result.runs]))


def _parts(value_OK: NDArray[np.float64]) -> NDArray[np.float64]:
    """Means over neighbouring origins [N, K]."""
    parts = np.array_split(value_OK, min(PARTS, len(value_OK)))
    return np.asarray(np.maximum(np.stack([part.mean(axis=0) for part in parts]), EXACT))


def _same(worse_N: NDArray[np.float64], gap: float, tolerance: float, most: float) -> bool:
    """Whether what one is worse by in all is within the tolerance, or within ``most`` and not told from zero."""
    from scipy.stats import t

    if gap <= tolerance:
        return True
    known_N = worse_N[np.isfinite(worse_N)]
    if gap > most or len(known_N) < 3:
        return False
    half = t.ppf(0.975, len(known_N) - 1) * known_N.std(ddof=1) / np.sqrt(len(known_N))
    return bool(known_N.mean() - half <= 0)

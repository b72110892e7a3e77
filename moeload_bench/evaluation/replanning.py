"""Re-planning policies on a trace, driven by a forecaster: replay, plan, charge, compare.

Axis letters: S rows of the trace, L MoE layers, E experts, N decisions.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from moeload_bench.arrays import FloatArray
from moeload_bench.bounds import whole_number
from moeload_bench.errors import ForecastError, PlacementError, TraceError
from moeload_bench.evaluation.harness import Feed, follow
from moeload_bench.isolation.hosts import Level
from moeload_bench.isolation.targets import parse_target
from moeload_bench.placement.plans import ClusterShape
from moeload_bench.placement.replan import CostModel, Policy, PolicyRun, Simulation, best_run
from moeload_bench.states.rule import StateRule, label_states
from moeload_bench.traces.streaming import parts
from moeload_bench.traces.trace import RowShares, Trace
from moeload_bench.words import Progress, silent

EVERY = (10, 20, 50, 100, 200, 500, 1000, 2000)
MOST_PLANNED = 1_500_000
"""Intervals with more decisions x layers x experts are left out unless they are asked for: minutes of planning."""
FORECAST_POLICIES: tuple[Policy, ...] = ("every", "if_pays", "stable_only", "reserve_allocate", "on_change")
STATELESS: tuple[Policy, ...] = ("every", "if_pays")

Means = Mapping[int, Mapping[int, FloatArray]]


@dataclass(frozen=True, eq=False)
class Comparison:
    """All policies on one trace. ``failures`` are decisions without a forecast, each with its reason."""

    trace: str
    forecaster: str
    simulation: Simulation
    runs: tuple[PolicyRun, ...]
    failures: tuple[str, ...]
    notes: tuple[str, ...]
    means: Means = field(repr=False)

    @property
    def best(self) -> PolicyRun:
        """The policy that saves most after migration; the static plan where none saves anything."""
        return best_run(self.runs)

    def share_hat(self, policy: Policy, every: int) -> FloatArray | None:
        """Return the forecast means at a policy's decisions [N, L, E], NaN where a forecast failed."""
        if policy in ("static", "oracle"):
            return None
        rows, _ = self.simulation.decisions(policy, every)
        known, missing = self.means.get(every, {}), np.full(self.simulation.share_SLE.shape[1:], np.nan)
        return np.array([known.get(row, missing) for row in rows.tolist()]).reshape(-1, *missing.shape)


def compare_policies(
    trace: Trace,
    forecaster: str,
    shape: ClusterShape,
    cost: CostModel,
    *,
    every: Sequence[int] | None = None,
    level: Level = "process",
    seed: int = 0,
    rule: StateRule | None = None,
    report: Progress | None = None,
) -> Comparison:
    """Simulate every policy at every interval, each plan made from what the forecaster says at that step.

    ``every``: the intervals k, in training steps; those of `EVERY` that the trace can hold by default, of a large model
    only the longer ones (`notes` says which are left out). A forecast that fails leaves the plan as it is and is
    listed. Raises `PlacementError` for a shape or interval that does not fit or a trace without any load, `TargetError`
    or `IsolationError` for a forecaster that cannot be run, `MoeloadError` for a seed that is no whole number.
    """
    seed, report = whole_number(seed, "seed", 0), report or silent
    shape.check(trace.num_experts)
    if not any(trace.load_SLE[rows].any() for rows in parts(trace.load_SLE.shape)):
        raise PlacementError(
            f"{trace.id}: no layer has load in any of {trace.steps} rows, expected load in at least one"
        )
    intervals, notes = _intervals(trace, every)
    policies, transient_SL = FORECAST_POLICIES, None
    report(0, 1, "states of the run")
    try:
        transient_SL = label_states(trace.load_SLE, stride=trace.meta.stride, rule=rule).transient_SL
    except TraceError as error:
        policies = STATELESS
        notes.append(f"policies by state are left out: {error}")
    if transient_SL is None:
        transient_SL = np.zeros(trace.load_SLE.shape[:2], dtype=np.bool_)
    simulation = Simulation(RowShares(trace.load_SLE), transient_SL, shape, cost, trace.meta.stride)
    planned = [(policy, k) for policy in policies for k in intervals]
    asked: list[tuple[Policy, int]] = [("static", intervals[0]), *planned, *(("oracle", k) for k in intervals)]
    report(0, 1, f"starting {forecaster}")
    with follow(parse_target(forecaster), trace, seed=seed, level=level) as feed:
        forecasts = _Forecasts(trace, feed, _wanted(simulation, planned), report)
        runs = simulation.runs(asked, forecasts.at)
    if policies is STATELESS:
        runs = [replace(run, imbalance_transient=None, imbalance_stable=None) for run in runs]
    return Comparison(
        trace.id, forecaster, simulation, tuple(runs), tuple(forecasts.failures), tuple(notes), forecasts.means
    )


def _intervals(trace: Trace, every: Sequence[int] | None) -> tuple[tuple[int, ...], list[str]]:
    """Return the intervals to try, and what is to be said about those that are left out."""
    stride, span = trace.meta.stride, trace.steps * trace.meta.stride
    fits = [k for k in EVERY if k % stride == 0 and 2 * k <= span]
    if every is not None and len(every) == 0:
        raise PlacementError(f"{trace.id}: every is empty, expected at least one interval in steps; fitting: {fits}")
    chosen = sorted(set(fits if every is None else every))
    for k in chosen:
        if k < 1 or k % stride or k >= span:
            raise PlacementError(
                f"{trace.id}: re-planning every {k} steps does not fit {span} steps at stride {stride}; fitting: {fits}"
            )
    if not chosen:
        raise PlacementError(f"{trace.id}: {span} steps are too few to re-plan in; at least {2 * EVERY[0]} are needed")
    if every is not None:
        return tuple(chosen), []
    cells = trace.num_layers * trace.num_experts
    kept = [k for k in chosen if span // k * cells <= MOST_PLANNED] or chosen[-1:]
    left = [str(k) for k in chosen if k not in kept]
    notes = [f"k = {', '.join(left)} left out at this size; --every {','.join(map(str, chosen))} tries them too"]
    return tuple(kept), notes if left else []


def _wanted(simulation: Simulation, asked: Sequence[tuple[Policy, int]]) -> dict[int, set[int]]:
    """Which window means are needed: intervals by decision row. Known before the replay, from labels alone."""
    wanted: dict[int, set[int]] = defaultdict(set)
    for policy, k in asked:
        for row in simulation.decisions(policy, k)[0].tolist():
            wanted[row].add(k)
    return wanted


class _Forecasts:
    """Window means, asked for as a simulation comes to their rows, each of the steps that the trace still has.

    ``means`` by interval and row; ``failures`` of those that are missing.
    """

    def __init__(self, trace: Trace, feed: Feed, wanted: Mapping[int, set[int]], report: Progress) -> None:
        self._trace, self._feed, self._wanted, self._report = trace, feed, wanted, report
        self.means: dict[int, dict[int, FloatArray]] = defaultdict(dict)
        self.failures: list[str] = []
        self._done = 0

    def at(self, row: int) -> dict[int, FloatArray]:
        """Return the mean shares from a row on, by interval; rows must rise."""
        step = int(self._trace.step_S[row])
        left = (self._trace.steps - row) * self._trace.meta.stride
        ahead = {k: min(k, left) for k in self._wanted[row]}
        horizons = sorted(set(ahead.values()))
        self._report(self._done, len(self._wanted), f"forecast and plans at step {step:,}")
        self._done += 1
        try:
            forecast = self._feed.at(step, horizons)
        except ForecastError as error:
            if self._feed.gone is not None:
                raise
            self.failures.append(f"step {step}: {error}")
            return {}
        mean_of = dict(zip(horizons, forecast.window_means(horizons), strict=True))
        found = {k: mean_of[horizon] for k, horizon in ahead.items()}
        for k, mean_LE in found.items():
            self.means[k][row] = mean_LE
        return found

"""How often to move experts with one forecaster, and what that saves: `compare_policies`."""

from __future__ import annotations

import math
from collections.abc import Sequence

from moeload_bench.bounds import whole_number
from moeload_bench.errors import PlacementError
from moeload_bench.inspection.cluster import Cluster
from moeload_bench.inspection.decision import Decision
from moeload_bench.inspection.planning import Settings, decided
from moeload_bench.isolation.hosts import Level, parse_level
from moeload_bench.placement.plans import ClusterShape
from moeload_bench.placement.replan import CostModel
from moeload_bench.states.rule import StateRule
from moeload_bench.traces.streaming import parts
from moeload_bench.traces.trace import Trace
from moeload_bench.words import FineProgress, silent


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
    report: FineProgress | None = None,
) -> Decision:
    """Return the decision about a run, as `moeload-bench plan` makes it, with one candidate for each interval.

    Along the trace each candidate is asked for a forecast every so many steps, from the past alone, and moves experts
    when the forecast promises to save more than the move costs. ``every``: the intervals in training steps; those of
    `plan` by default. Raise `PlacementError` for a shape that does not hold the experts or a trace without any load,
    `TraceError` for a trace that is too short or intervals that the state rule does not fit, `TargetError` or
    `IsolationError` for a forecaster that cannot be run, `ForecastError` for one that fails.
    """
    seed, level = whole_number(seed, "seed", 0), parse_level(level)
    shape.check(trace.num_experts)
    if not any(trace.load_SLE[rows].any() for rows in parts(trace.load_SLE.shape)):
        raise PlacementError(
            f"{trace.id}: no layer has load in any of {trace.steps} rows, expected load in at least one"
        )
    settings = Settings(
        forecaster, level=level, seed=seed, cluster=Cluster(shape, cost), rule=rule or StateRule(),
        intervals=None if every is None else tuple(sorted(set(every))),
        every=Settings.every if every is None else math.gcd(*every),
    )  # fmt: skip
    return decided(trace, settings, report or silent)[1]

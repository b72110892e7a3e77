"""How much of a large run is looked at by default: so that a comparison of forecasters ends within a minute.

Work is counted before it begins: the series (layers x experts) times the origins times what a forecast of one series
was measured to cost. Forecasters that are named by the user all run, on all layers.

Axis letters: L MoE layers, E experts.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from moeload_bench.baseline_facts import BaselineFacts, baseline_facts
from moeload_bench.suites.suite import ORIGINS_PER_STATE, fitting_horizons
from moeload_bench.traces.trace import Trace

SMALL = 10_000_000
"""Loads (steps x layers x experts) of a run that is looked at as a whole, whatever that takes."""
MOST_SCORED = 100_000_000
"""Origins x rows of the longest horizon x layers x experts scored per forecaster: of a larger run, some layers are."""
BUDGET_S = 60.0
"""What a whole comparison may take; its forecasters may take half of it, however long reading the run does."""
READING_NS, SCORING_NS = 250.0, 60.0
"""CPU time to read, label and describe a load, and to score a forecast share with its plan."""
COSTS_NOTHING = BaselineFacts(0)
"""Of a forecaster that states no costs."""


class Sized(NamedTuple):
    """What is looked at: the run, perhaps with some of its layers only, the forecasters, and what is not, in words."""

    trace: Trace
    names: tuple[str, ...]
    note: str | None


def sized(trace: Trace, names: Sequence[str], source: str) -> Sized:
    """Return as much of a comparison as its budget allows: evenly spread layers, and not the dearest forecasters.

    ``source``: what a command calls the trace.
    """
    if trace.load_SLE.size <= SMALL:
        return Sized(trace, tuple(names), None)
    L, E, stride = trace.num_layers, trace.num_experts, trace.meta.stride
    origins, rows = 2 * ORIGINS_PER_STATE, fitting_horizons(trace)[-1] // stride
    most = max(1, MOST_SCORED // (origins * rows * E))
    layers = list(range(L)) if most >= L else np.linspace(0, L - 1, most).round().astype(int).tolist()

    def seconds(name: str) -> float:
        cost = baseline_facts().get(name, COSTS_NOTHING)
        each_s = 1e-9 * trace.steps * cost.step_ns + origins * (1e-6 * cost.forecast_us + 1e-9 * SCORING_NS * rows)
        return len(layers) * E * each_s

    affordable, left_out = sorted(names, key=seconds), []
    spare_s = max(BUDGET_S / 2, BUDGET_S - 1e-9 * READING_NS * trace.load_SLE.size)
    while len(affordable) > 1 and sum(map(seconds, affordable)) > spare_s:
        left_out.append(affordable.pop())
    notes = [f"{len(layers)} of {L} layers are looked at, evenly spread"] if len(layers) < L else []
    if left_out:
        costs = (f"{name} (about {_long(seconds(name))} on these layers)" for name in left_out)
        notes.append(f"left out: {', '.join(costs)}")
    notes += [f"all of it: moeload-bench run {shlex.join(names)} --trace {shlex.quote(source)}"] if notes else []
    chosen = tuple(name for name in names if name in affordable)
    return Sized(trace.of_layers(layers) if len(layers) < L else trace, chosen, "; ".join(notes) or None)


def _long(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:,.0f} min"

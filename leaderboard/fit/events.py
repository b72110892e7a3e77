"""Choose the constants of events on `train` runs.

    python -m leaderboard fit events

*Collapse*: parts of the former load, and least loads, are tried on the balanced runs of leaderboard/fit/events.toml.
*False* are collapses outside the 400 steps after a planned switch, for each 100,000 layer-steps. *Found* are experts
called collapsed in a copy of the run's last rows in which one expert of each layer keeps 5, 15 or 30 % of its load.
Of those with at most one false collapse the one that finds most is taken; of equals the larger part, then the larger
least load. *Recovery*: the least factor at which at most one of ten recovered experts falls again within 500 steps, on
all runs; if none reaches that, the one after which fewest fall. *Cause*: the same for the fraction of steps, outside
warm-up and planned switches, over which the learning rate changed by the factor within 200 steps, at most 1 %. When
loads moved at once: `leaderboard.fit.moves`.

Axis letters: B blocks of 100 steps, S rows, L MoE layers, E experts.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from leaderboard.committed import ROOT
from leaderboard.events.alarms import SWITCH_STEPS, planned_steps, unplanned
from leaderboard.fit import moves
from leaderboard.fit.alarm import block_shares
from leaderboard.fit.lists import FitList
from leaderboard.fit.states import with_constants
from moeload_bench.ops.facts.conditions import Conditions
from moeload_bench.ops.facts.events import Event, EventDetector, EventRule
from moeload_bench.ops.facts.experts import BLOCK_STEPS, ExpertAlarm, over_even
from moeload_bench.schema import Record
from moeload_bench.states.rule import trace_labels
from moeload_bench.states.shifts import planned_shifts
from moeload_bench.traces.trace import Trace, layer_names

RULE = ROOT / "moeload_bench" / "ops" / "facts" / "events.py"
CHOSEN = ROOT / "leaderboard" / "events" / "constants.json"
PARTS = (0.5, 0.33, 0.25, 0.15)
LEAST = (0.1, 0.2, 0.5)
RECOVERY = (1.5, 2.0, 3.0)
CAUSE = (1.2, 1.5, 2.0)
KEPT_LOAD = (0.05, 0.15, 0.3)
MOST_FALSE, MOST_RELAPSES, MOST_CHANGES = 1.0, 0.1, 0.01
PLANT_BLOCKS, RELAPSE_STEPS, LR_STEPS = 8, 500, 200
UNKNOWN = Conditions(math.nan, None)


class Candidate(Record):
    """One part and least load: false collapses for each 100,000 layer-steps, and the fraction of planted ones found."""

    collapse: float
    least_load: float
    false: float
    found: float

    @property
    def order(self) -> tuple[float, ...]:
        """Smaller is better."""
        return (max(MOST_FALSE, self.false), -self.found, -self.collapse, -self.least_load)


class Chosen(Record):
    """Every candidate and what was taken. ``relapses`` and ``changes``: fractions by factor, as text."""

    runs: int
    candidates: tuple[Candidate, ...]
    relapses: dict[str, float]
    changes: dict[str, float]
    constants: dict[str, float]


def events(listed: FitList) -> dict[Path, bytes]:
    """Return the modules of events and moves with the constants that are chosen, and every candidate."""
    traces = list(listed.traces())
    candidates = [_candidate(traces, part, least) for part, least in itertools.product(PARTS, LEAST)]
    best = min(candidates, key=lambda one: one.order)
    rule = EventRule(best.collapse, best.least_load)
    relapses = {factor: _relapses(traces, replace(rule, recovery=factor)) for factor in RECOVERY}
    changes = {factor: _changes(traces, factor) for factor in CAUSE}
    constants = {
        "collapse": best.collapse,
        "least_load": best.least_load,
        "recovery": _least(relapses, MOST_RELAPSES),
        "lr_change": _least(changes, MOST_CHANGES),
    }
    chosen = Chosen(
        runs=len(traces),
        candidates=tuple(candidates),
        relapses={f"{factor:g}": part for factor, part in relapses.items()},
        changes={f"{factor:g}": part for factor, part in changes.items()},
        constants=constants,
    )
    moved = moves.choose(traces)
    return {
        RULE: with_constants(RULE.read_text(), constants).encode(),
        CHOSEN: (chosen.model_dump_json() + "\n").encode(),
        moves.RULE: with_constants(moves.RULE.read_text(), moved.constants).encode(),
        moves.CHOSEN: (moved.model_dump_json() + "\n").encode(),
    }


def _least(fractions: Mapping[float, float], most: float) -> float:
    """Return the least factor whose fraction is small enough; if none is, the factor with the smallest one."""
    return next(
        (factor for factor, part in fractions.items() if part <= most), min(fractions, key=fractions.__getitem__)
    )


def _candidate(traces: Sequence[Trace], part: float, least: float) -> Candidate:
    balanced = [trace for trace in traces if trace.meta.balancing.method != "none"]
    rule = EventRule(part, least, max(RECOVERY))
    false = sum(_false(trace, rule) for trace in balanced)
    layer_steps = sum(trace.steps * trace.num_layers for trace in balanced)
    found = [one for trace in balanced for one in _found(trace, rule)]
    return Candidate(collapse=part, least_load=least, false=1e5 * false / layer_steps, found=float(np.mean(found)))


def _false(trace: Trace, rule: EventRule) -> int:
    """Return how many collapses no planned switch explains."""
    steps = [event.report_step for event in run_events(trace, rule) if event.kind == "collapsed"]
    return len(unplanned(steps, planned_steps(trace)))


def run_events(trace: Trace, rule: EventRule) -> list[Event]:
    """Return what happened to the experts of a run."""
    detector, alarm = _detector(trace, rule), ExpertAlarm(trace.num_layers, trace.num_experts)
    onset_L, found = trace_labels(trace).onset_L, list[Event]()
    for block, share_LE in enumerate(block_shares(trace)):
        after = (block + 1) * BLOCK_STEPS
        detector.add_labels(after, (onset_L < 0) | (onset_L >= after), UNKNOWN)
        found += detector.add_unit(after, share_LE, alarm.add_block(after, share_LE, {}), UNKNOWN)
    return found


def _detector(trace: Trace, rule: EventRule) -> EventDetector:
    return EventDetector(layer_names(trace.meta), trace.num_experts, BLOCK_STEPS, BLOCK_STEPS, rule)


def _found(trace: Trace, rule: EventRule) -> Iterator[float]:
    """Yield, for each load that an expert keeps, the fraction of layers in which its collapse is found."""
    load_SLE = trace.load_SLE[-PLANT_BLOCKS * BLOCK_STEPS :]
    share_LE = over_even(load_SLE.sum(axis=0))
    layer_L, expert_L = np.arange(trace.num_layers), np.abs(share_LE - 1).argmin(axis=1)
    at = len(load_SLE) // 2 + BLOCK_STEPS // 2
    for part in KEPT_LOAD:
        rng, changed_SLE = np.random.default_rng(0), np.array(load_SLE)
        changed_SLE[at:, layer_L, expert_L] = rng.binomial(changed_SLE[at:, layer_L, expert_L], part)
        detector, fallen = _detector(trace, rule), set[tuple[int | None, int | None]]()
        detector.add_labels(0, np.zeros(trace.num_layers, dtype=np.bool_), UNKNOWN)
        for first in range(0, len(changed_SLE) - BLOCK_STEPS + 1, BLOCK_STEPS):
            load_LE = changed_SLE[first : first + BLOCK_STEPS].sum(axis=0)
            nobody_LE = np.zeros(load_LE.shape, dtype=np.bool_)
            seen = detector.add_unit(first + BLOCK_STEPS, over_even(load_LE), nobody_LE, UNKNOWN)
            fallen |= {(event.layer, event.expert) for event in seen}
        yield float(np.mean([pair in fallen for pair in enumerate(expert_L.tolist())]))


def _relapses(traces: Sequence[Trace], rule: EventRule) -> float:
    """Return the fraction of recovered experts that fall again within 500 steps."""
    recovered = again = 0
    for trace in traces:
        last: dict[tuple[int | None, int | None], int] = {}
        for event in run_events(trace, rule):
            place = (event.layer, event.expert)
            if event.kind == "recovered":
                last[place] = event.step
                recovered += 1
            elif place in last:
                again += event.step - last.pop(place) <= RELAPSE_STEPS
    return again / max(1, recovered)


def _changes(traces: Sequence[Trace], factor: float) -> float:
    """Return the fraction of steps, outside warm-up and switches, over which the learning rate changed by a factor."""
    reached = steps = 0
    for trace in traces:
        lr_S = trace.columns.get("lr")
        if lr_S is None:
            continue
        low_S, high_S = np.minimum(lr_S[LR_STEPS:], lr_S[:-LR_STEPS]), np.maximum(lr_S[LR_STEPS:], lr_S[:-LR_STEPS])
        counted_S = np.arange(LR_STEPS, trace.steps) >= 2 * LR_STEPS
        for row in planned_shifts(trace):
            counted_S[max(0, row - LR_STEPS) : row + SWITCH_STEPS] = False
        reached += int((counted_S & (high_S > factor * low_S)).sum())
        steps += int(counted_S.sum())
    return reached / max(1, steps)

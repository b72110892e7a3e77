"""Measure how right events are: on the runs of a season, none of which has a break, and after breaks that were planted.

Axis letters: C checks of `leaderboard.events.alarms`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from leaderboard.committed import ROOT
from leaderboard.events.alarms import (
    AFTER,
    BEFORE,
    EVENTS,
    KINDS,
    LOSS,
    VIOLATION,
    Healthy,
    Measured,
    Noticed,
    check_steps,
    crossings,
    episodes,
    events_of,
    first_after,
    kind_of,
    planned_steps,
    scores,
    unplanned,
)
from leaderboard.events.breaks import BREAKS, FAMILIES, FORKS, NO_BREAK, base_job, fork_of
from leaderboard.fit.moves import blocks_of
from moeload_bench.arrays import BoolArray, FloatArray, IntArray
from moeload_bench.ops.facts.events import Event
from moeload_bench.recording.parts import unfinished_trace
from moeload_bench.states.rule import trace_labels
from moeload_bench.states.shifts import planned_shifts
from moeload_bench.traces.store import read_trace
from moeload_bench.traces.trace import Trace

HEALTHY = ROOT / "leaderboard" / "seasons" / "2027-01" / "traces"
RIVALS = (VIOLATION, LOSS)
CANDIDATES = 400
"""Thresholds that are tried for a rival: quantiles of its scores."""


@dataclass(frozen=True, eq=False)
class Scored:
    """Scores of the rivals at each check of a healthy run, and the steps of its planned switches."""

    step_C: IntArray
    score: Mapping[str, FloatArray]
    planned: Sequence[int]

    def false(self, rival: str, threshold: float) -> int:
        """Return how many episodes of a rival no planned switch explains."""
        return len(episodes(unplanned(crossings(self.score[rival], self.step_C, threshold), self.planned)))


def measure(folder: Path) -> Measured:
    """Return what events and rivals say on the healthy runs, and after the breaks whose forks a folder has."""
    healthy, thresholds = false_alarms()
    switches = tuple(one for trace in healthy_traces() for one in _switches(trace, thresholds))
    return Measured(
        thresholds=thresholds, healthy=healthy, switches=switches, breaks=tuple(_breaks(folder, thresholds))
    )


def healthy_traces() -> Iterator[Trace]:
    """Yield the runs in which nothing is broken."""
    return (read_trace(path) for path in sorted(HEALTHY.rglob("*.parquet")))


def false_alarms() -> tuple[tuple[Healthy, ...], dict[str, float]]:
    """Return the healthy runs, and the thresholds of the rivals."""
    traces = list(healthy_traces())
    scored = [Scored(check_steps(one), scores(one), planned_steps(one)) for one in traces]
    healthy = tuple(_healthy(trace, run.planned) for trace, run in zip(traces, scored, strict=True))
    allowed = sum(one.episodes[EVENTS] for one in healthy)
    thresholds = {rival: _threshold(scored, rival, allowed) for rival in RIVALS}
    for one, run in zip(healthy, scored, strict=True):
        one.episodes.update({rival: run.false(rival, thresholds[rival]) for rival in RIVALS})
    return healthy, thresholds


def _healthy(trace: Trace, planned: Sequence[int]) -> Healthy:
    found = events_of(trace)
    steps = unplanned([event.report_step for event in found], planned)
    false = Counter(kind_of(event) for event in found if event.report_step in steps)
    answers = Counter(kind_of(event) for event in found if event.report_step not in steps)
    blocks, onset_L = blocks_of(trace), trace_labels(trace).onset_L
    moved = Counter(
        AFTER if 0 <= onset_L[event.layer] < event.report_step else BEFORE
        for event in found
        if kind_of(event) == "moved" and event.report_step in steps
    )
    watched = {
        name: int((blocks.watched_NL & state_NL).sum()) * blocks.steps
        for name, state_NL in ((BEFORE, ~blocks.settled_NL), (AFTER, blocks.settled_NL))
    }
    return Healthy(
        run=trace.id,
        steps=trace.steps,
        balanced=trace.meta.balancing.method != "none",
        switches=len(planned),
        alarms={kind: false[kind] for kind in KINDS},
        planned={kind: answers[kind] for kind in KINDS},
        episodes={EVENTS: len(episodes(steps))},
        watched=watched,
        moved={name: moved[name] for name in watched},
    )


def _threshold(runs: Sequence[Scored], rival: str, allowed: int) -> float:
    """Return the least threshold down to which a rival has no more false episodes than ``allowed``."""
    score_C = np.concatenate([run.score[rival] for run in runs])
    tried = np.unique(np.quantile(score_C[np.isfinite(score_C)], np.linspace(0.8, 1, CANDIDATES)))[::-1]
    least = float(tried[0])
    for threshold in tried.tolist():
        if sum(run.false(rival, threshold) for run in runs) > allowed:
            break
        least = threshold
    return least


def _breaks(folder: Path, thresholds: Mapping[str, float]) -> Iterator[Noticed]:
    """Yield what was noticed in each fork that is there."""
    for at in FORKS:
        for base in FAMILIES:
            for one in (NO_BREAK, *BREAKS):
                path = fork_of(folder, base, at, one).target(0)
                if path.is_file():
                    trace = _joined(folder, base, at, read_trace(path))
                    yield from _noticed(trace, base, at, one.name, thresholds)


def _switches(trace: Trace, thresholds: Mapping[str, float]) -> Iterator[Noticed]:
    """Yield what was noticed of each planned switch of data, and of each restart of the learning rate."""
    stage_S = np.asarray(trace.columns["stage"])
    for row in planned_shifts(trace):
        name = "planned switch of text" if stage_S[row] != stage_S[row - 1] else "planned restart of the rate"
        yield from _noticed(trace, trace.id, int(trace.step_S[row]), name, thresholds)


def _noticed(trace: Trace, base: str, at: int, name: str, thresholds: Mapping[str, float]) -> Iterator[Noticed]:
    """Yield after how many steps each alarm came, of the layers that had not settled, and of those that had."""
    step_C, score = check_steps(trace), scores(trace)
    rivals = {rival: first_after(crossings(score[rival], step_C, thresholds[rival]), at) for rival in RIVALS}
    found, settled_L = events_of(trace), ~trace_labels(trace).transient_SL[at - 1]
    for settled in (False, True):
        which_L = settled_L == settled
        if which_L.any():
            delay = _delays(found, at, which_L) | rivals
            yield Noticed(base=base, at=at, name=name, settled=settled, layers=int(which_L.sum()), delay=delay)


def _delays(events: Sequence[Event], at: int, which_L: BoolArray) -> dict[str, int | None]:
    """Return after how many steps each kind of event of some layers or of a setting came, and any of layers."""
    own = [event for event in events if event.layer is None or which_L[event.layer]]
    steps = {kind: [event.report_step for event in own if kind_of(event) == kind] for kind in KINDS}
    steps[EVENTS] = [event.report_step for event in own if event.layer is not None]
    return {kind: first_after(given, at) for kind, given in steps.items()}


def _joined(folder: Path, base: str, at: int, fork: Trace) -> Trace:
    """Return the past of a fork and the fork as one run."""
    past = unfinished_trace(base_job(folder, base).target.with_suffix(".parts"))
    columns = {name: np.concatenate([past.columns[name][:at], fork.columns[name]]) for name in ("lr", "loss", "stage")}
    load_SLE = np.concatenate([past.load_SLE[:at], fork.load_SLE])
    return Trace.from_arrays(load_SLE, top_k=fork.meta.layers[0].top_k, columns=columns)

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
    ALARMS,
    EVENTS,
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
    planned_steps,
    scores,
    unplanned,
)
from leaderboard.events.breaks import BREAKS, FAMILIES, FORKS, NO_BREAK, base_job, fork_of
from moeload_bench.arrays import FloatArray, IntArray
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
    false = Counter(event.kind for event in found if event.report_step in steps)
    answers = Counter(event.kind for event in found if event.report_step not in steps)
    return Healthy(
        run=trace.id,
        steps=trace.steps,
        balanced=trace.meta.balancing.method != "none",
        switches=len(planned),
        alarms={kind: false[kind] for kind in ALARMS},
        planned={kind: answers[kind] for kind in ALARMS},
        episodes={EVENTS: len(episodes(steps))},
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
                    yield _noticed(trace, base, at, one.name, thresholds)


def _switches(trace: Trace, thresholds: Mapping[str, float]) -> Iterator[Noticed]:
    """Yield what was noticed of each planned switch of data, and of each restart of the learning rate."""
    stage_S = np.asarray(trace.columns["stage"])
    for row in planned_shifts(trace):
        name = "planned switch of text" if stage_S[row] != stage_S[row - 1] else "planned restart of the rate"
        yield _noticed(trace, trace.id, int(trace.step_S[row]), name, thresholds)


def _noticed(trace: Trace, base: str, at: int, name: str, thresholds: Mapping[str, float]) -> Noticed:
    """Return after how many steps each alarm came."""
    found, step_C, score = events_of(trace), check_steps(trace), scores(trace)
    steps = {EVENTS: [event.report_step for event in found]}
    steps |= {kind: [event.report_step for event in found if event.kind == kind] for kind in ALARMS}
    steps |= {rival: crossings(score[rival], step_C, thresholds[rival]) for rival in RIVALS}
    delay = {name: first_after(given, at) for name, given in steps.items()}
    settled = float(1 - trace_labels(trace).transient_SL[at - 1].mean())
    return Noticed(base=base, at=at, name=name, settled=settled, delay=delay)


def _joined(folder: Path, base: str, at: int, fork: Trace) -> Trace:
    """Return the past of a fork and the fork as one run."""
    past = unfinished_trace(base_job(folder, base).target.with_suffix(".parts"))
    columns = {name: np.concatenate([past.columns[name][:at], fork.columns[name]]) for name in ("lr", "loss", "stage")}
    load_SLE = np.concatenate([past.load_SLE[:at], fork.load_SLE])
    return Trace.from_arrays(load_SLE, top_k=fork.meta.layers[0].top_k, columns=columns)

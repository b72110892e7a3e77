"""All that the report of a run says, as numbers and sentences; `page` makes a page of it.

Axis letters: K suite horizons, L MoE layers.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from moeload_bench.errors import MoeloadError, SuiteError, counted
from moeload_bench.harness.evaluate import evaluate, installed
from moeload_bench.harness.sizing import sized
from moeload_bench.inspection.advice import Advice, name_layers
from moeload_bench.inspection.decision import Decision, too_short
from moeload_bench.inspection.planning import Settings
from moeload_bench.inspection.snapshots import FormerSnapshot, FormerWatch, replay_with_watch
from moeload_bench.inspection.starving import alarm_errors, death_sentences
from moeload_bench.inspection.summary import forecast_words, lr_words
from moeload_bench.results.results import Results
from moeload_bench.scoring.description import LayerDescription, describe_layers
from moeload_bench.suites.suite import suite_for_trace
from moeload_bench.traces.trace import Trace
from moeload_bench.words import FineProgress, every, silent

FORECASTERS = ("uniform", "last_value", "sw_avg@window=10", "sw_avg", "sw_avg@window=500", "ema")
"""Asked for a report: all of them answer in milliseconds."""

WATCHING = "watching: "
"""What a reason among `Findings.missing` begins with where the run could not be watched."""


class Look(NamedTuple):
    """What the page draws of a snapshot: dead and dying experts of all layers. A whole snapshot holds megabytes."""

    step: int
    dead: int
    dying: int


@dataclass(frozen=True, eq=False)
class Findings:
    """What is known about a finished (or cut) run.

    ``looks``: of the run watched as if it were training; ``watch`` and ``last``: where it ended, with the decision;
    ``results``: what forecasters misplace by horizon. None where it could not be worked out, with the reason among
    ``missing``.
    """

    trace: Trace
    source: str
    settings: Settings
    layers: list[LayerDescription]
    looks: list[Look]
    watch: FormerWatch | None
    last: FormerSnapshot | None
    results: Results | None
    missing: list[str]

    @property
    def decision(self) -> Decision | None:
        """What to do about the run."""
        return None if self.last is None else self.last.decision

    @property
    def moves(self) -> list[Advice]:
        """The moves that the decision comes down to, along the run."""
        decision, race = self.decision, None if self.watch is None else self.watch.race
        return [] if decision is None or race is None else race.chosen(decision)[0].moves


def make_findings(
    trace: Trace,
    source: str,
    settings: Settings | None = None,
    *,
    forecasters: Sequence[str] = FORECASTERS,
    progress: FineProgress = silent,
) -> Findings:
    """Work it all out. ``source``: the path or id that commands are to name. What cannot be judged (a run too short) is
    missing with its reason; a cluster that the caller named and that does not fit raises `PlacementError`."""
    settings = settings or Settings()
    shape = settings.cluster.shape_for(trace.num_experts)
    missing = [] if shape is not None else [f"re-planning: no cluster shape fits {trace.num_experts} experts; name one"]
    looks, watch, last = _watched(trace, settings, missing, _stage(progress, "watching (1 of 2)"))
    results = _judged(trace, source, forecasters, missing, _stage(progress, "forecasters (2 of 2)"))
    return Findings(trace, source, settings, describe_layers(trace), looks, watch, last, results, missing)


def _stage(progress: FineProgress, name: str) -> FineProgress:
    """Return a report of one stage, which is named from now on."""
    progress(0, 1, name)
    return lambda done, total, what: progress(done, total, f"{name}: {what}")


def _watched(
    trace: Trace, settings: Settings, missing: list[str], progress: FineProgress
) -> tuple[list[Look], FormerWatch | None, FormerSnapshot | None]:
    looks: list[Look] = []
    watch, snapshot, stride = None, None, trace.meta.stride
    try:
        every = settings.every_at(stride)
        for seen in replay_with_watch(trace, settings):
            watch, snapshot = seen
            looks.append(Look(snapshot.step, int(snapshot.dead_LE.sum()), int(snapshot.dying_LE.sum())))
            progress(snapshot.rows, trace.steps, f"step {snapshot.step:,}")
        if not looks:
            missing.append(f"{WATCHING}{too_short(trace.steps * stride, every)}")
    except MoeloadError as error:
        missing.append(f"{WATCHING}{error}")
    missing += [] if watch is None else [f"{name}: {why}" for name, why in watch.failures.items()]
    return looks, watch, snapshot


def _judged(
    trace: Trace, source: str, forecasters: Sequence[str], missing: list[str], progress: FineProgress
) -> Results | None:
    try:
        trace, forecasters, note = sized(trace, forecasters, source)
        missing += [] if note is None else [f"forecasters: {note}"]
        suite = suite_for_trace(trace)
    except MoeloadError as error:
        missing.append(f"forecasters: {error}")
        return None
    kept, reasons = installed(forecasters, suite)
    missing += [f"forecasters: {reason}" for reason in reasons]
    if not kept:
        return None
    try:
        return evaluate(kept, suite, traces=[trace], level="none", progress=progress, shapes=())
    except SuiteError as error:
        missing.append(f"forecasters: {error}")
        return None


def advice_sentences(found: Findings) -> list[str]:
    """Return what to do in a few sentences, for somebody who has not read anything else; the decision comes first."""
    decision = [] if found.decision is None else found.decision.lines()
    deaths = [] if found.last is None else death_sentences(found.last.deaths, found.last.names_L)
    return [text for text in (*decision, _states(found), _experts(found), *deaths, _noise(found)) if text]


def _states(found: Findings) -> str:
    last = found.last
    if last is None:
        why = "".join(reason.removeprefix(WATCHING) for reason in found.missing if reason.startswith(WATCHING))
        return f"Whether the expert loads have stabilised cannot be said: {why}."
    if last.silent_L.all():
        return "Nothing can be said of states and experts: no layer had any load at the end."
    # a layer without load is transient by the rule, for want of a drift: that is no reason to re-plan it
    moving = [last.names_L[i] for i in np.flatnonzero(last.transient_L & ~last.silent_L).tolist()]
    if not moving:
        since = int(last.since_L[~last.silent_L].max())
        return (
            f"The expert loads have stabilised: {_loaded(last)} are stable, the last one since step {since:,}; plans "
            f"made from the recent past hold from there on.{lr_words(last)}"
        )
    return (
        f"The expert loads have not stabilised in {name_layers(moving, len(last.names_L))}: there a plan is out of "
        "date soon, so re-plan from a short memory or wait."
    )


def _loaded(last: FormerSnapshot) -> str:
    """`all 6 layers`, or how many had load where some had none."""
    silent, of = int(last.silent_L.sum()), len(last.names_L)
    return f"the {of - silent} of {of} layers with load" if silent else every(of, "layer")


def _experts(found: Findings) -> str:
    last = found.last
    if last is None or last.silent_L.all():
        return ""
    dead, dying = int(last.dead_LE.sum()), int(last.dying_LE.sum())
    total, silent = int((~last.silent_L).sum()) * last.dead_LE.shape[1], int(last.silent_L.sum())
    without = f" {counted(silent, 'layer')} had no load." if silent else ""
    if not dead and not dying:
        return f"All {total} experts (over {_loaded(last)}) get tokens: none is dead or about to die.{without}"
    more = f"; of {dying} more the alarm says that they are about to. {alarm_errors()}" if dying else "."
    return (
        f"{dead} of {total} experts (over {_loaded(last)}) get less than a tenth of an even share, which no placement "
        f"mends{more}{without}"
    )


def _noise(found: Findings) -> str:
    last = found.last
    if last is None or not np.isfinite(last.outlook.lately.forecast_L).any():
        return ""
    return forecast_words(last.outlook)


def next_commands(found: Findings) -> list[str]:
    """Return the commands that go deeper, with this run's name and what was stated: the same decision in each."""
    source = f"{shlex.quote(found.source)}{found.settings.options}"
    is_file = found.source.rstrip("/").endswith((".parquet", ".parts"))
    commands = [f"moeload-bench run --trace {source}"] if is_file else []
    placed = found.decision is not None and found.decision.judged_by == "step time saved"
    return [*commands, f"moeload-bench plan {source}"] if placed else commands

"""All that the report of a run says, as numbers and sentences; `page` makes a page of it.

Axis letters: K suite horizons, L MoE layers.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from moeload_bench.arrays import FloatArray
from moeload_bench.errors import MissingExtraError, MoeloadError, PlacementError, SuiteError, counted
from moeload_bench.evaluation.evaluate import as_target, evaluate
from moeload_bench.evaluation.replanning import Comparison, compare_policies
from moeload_bench.evaluation.sizing import sized
from moeload_bench.isolation.targets import preflight
from moeload_bench.live.advice import Advice, name_layers
from moeload_bench.live.cluster import cluster_options
from moeload_bench.live.core import Settings, Snapshot, replay_with_watch
from moeload_bench.live.history import Past
from moeload_bench.results.choice import ForecasterChoice, PolicyChoice, choose_forecasters, choose_policy
from moeload_bench.results.collection import Results
from moeload_bench.scoring.description import LayerDescription, describe_layers
from moeload_bench.suites.suite import suite_for_trace
from moeload_bench.traces.trace import Trace
from moeload_bench.words import FineProgress, every, silent

FORECASTERS = ("uniform", "last_value", "sw_avg@window=10", "sw_avg", "sw_avg@window=500", "ema")
"""Asked for a report: all of them answer in milliseconds."""

WATCHING = "watching: "
"""What a reason among `Findings.missing` begins with where the run could not be watched."""


class Look(NamedTuple):
    """What the page draws of a snapshot: a long run has thousands, and a whole one holds megabytes for a large model.

    ``dead`` and ``dying`` experts of all layers; ``imbalance`` of the devices, mean over layers, and ``static`` that of
    experts spread evenly, None where no cluster fits.
    """

    step: int
    dead: int
    dying: int
    imbalance: float | None
    static: float | None

    @classmethod
    def of(cls, seen: Snapshot) -> Look:
        placing = seen.placing
        placed = (None, None) if placing is None else (_mean(placing.imbalance_L), _mean(placing.static_L))
        return cls(seen.step, int(seen.dead_LE.sum()), int(seen.dying_LE.sum()), *placed)


def _mean(values_L: FloatArray) -> float:
    known = values_L[np.isfinite(values_L)]
    return float(known.mean()) if known.size else float("nan")


@dataclass(frozen=True, eq=False)
class Findings:
    """What is known about a finished (or cut) run.

    ``looks``, ``moves`` (without their plans), ``last`` and ``past``: of the run watched as if it were training, advice
    followed; ``results`` and ``choices``: which forecaster serves it; ``comparison`` and ``policy``: how often to
    re-plan. None where it could not be worked out, with the reason among ``missing``.
    """

    trace: Trace
    source: str
    settings: Settings
    layers: list[LayerDescription]
    looks: list[Look]
    moves: list[Advice]
    last: Snapshot | None
    past: Past | None
    results: Results | None
    choices: list[ForecasterChoice]
    comparison: Comparison | None
    policy: PolicyChoice | None
    missing: list[str]

    @property
    def serves(self) -> str:
        """The forecaster to take where the run ended up; the watching one where none could be judged."""
        watching = self.settings.forecaster
        return self.choices[-1].cheapest if self.choices else watching if isinstance(watching, str) else "sw_avg"


def make_findings(
    trace: Trace,
    source: str,
    settings: Settings | None = None,
    *,
    forecasters: Sequence[str] = FORECASTERS,
    progress: FineProgress = silent,
) -> Findings:
    """Work it all out. ``source``: the path or id that commands are to name. What cannot be judged (a run too short, a
    cluster that has no shape) is missing with its reason; a cluster that the caller named and that does not fit raises
    `PlacementError`."""
    settings = replace(settings or Settings(), follow=True)
    shape = settings.cluster.shape_for(trace.num_experts)
    missing: list[str] = []
    watched = _watched(trace, settings, missing, _stage(progress, "watching (1 of 3)"))
    results, choices = _judged(trace, source, forecasters, missing, _stage(progress, "forecasters (2 of 3)"))
    findings = Findings(
        trace, source, settings, describe_layers(trace), *watched, results, choices, None, None, missing
    )
    if shape is None:
        missing.append(f"re-planning: no cluster shape fits {trace.num_experts} experts; name one")
        return findings
    said = _stage(progress, "re-planning (3 of 3)")
    try:
        comparison = compare_policies(trace, findings.serves, shape, settings.cluster.cost, level="none", report=said)
    except PlacementError as error:
        missing.append(f"re-planning: {error}")
        return findings
    return replace(findings, comparison=comparison, policy=choose_policy(comparison.runs))


def _stage(progress: FineProgress, name: str) -> FineProgress:
    """Return a report of one stage, which is named from now on."""
    progress(0, 1, name)
    return lambda done, total, what: progress(done, total, f"{name}: {what}")


def _watched(
    trace: Trace, settings: Settings, missing: list[str], progress: FineProgress
) -> tuple[list[Look], list[Advice], Snapshot | None, Past | None]:
    looks: list[Look] = []
    moves: list[Advice] = []
    snapshot, past, stride = None, None, trace.meta.stride
    try:
        every = settings.every_at(stride)
        for watch, snapshot in replay_with_watch(trace, settings):
            looks.append(Look.of(snapshot))
            if snapshot.advice is not None and snapshot.advice.verdict == "replan":
                moves.append(replace(snapshot.advice, slot_expert_LR=None))
            progress(snapshot.rows, trace.steps, f"step {snapshot.step:,}")
            past = watch.history.past() if trace.step_S[-1] - snapshot.step < every else past
        if not looks:
            missing.append(f"{WATCHING}{trace.steps * stride:,} steps, the first look comes after {every}")
    except MoeloadError as error:
        missing.append(f"{WATCHING}{error}")
    return looks, moves, snapshot, past


def _judged(
    trace: Trace, source: str, forecasters: Sequence[str], missing: list[str], progress: FineProgress
) -> tuple[Results | None, list[ForecasterChoice]]:
    try:
        trace, forecasters, note = sized(trace, forecasters, source)
        missing += [] if note is None else [f"forecasters: {note}"]
        suite = suite_for_trace(trace)
    except MoeloadError as error:
        missing.append(f"forecasters: {error}")
        return None, []
    kept = []
    for name in forecasters:
        try:
            preflight(as_target(name, suite))
            kept.append(name)
        except MissingExtraError as error:
            missing.append(f"forecasters: {error}")
    if not kept:
        return None, []
    try:
        results = evaluate(kept, suite, traces=[trace], level="none", progress=progress, shapes=())
    except SuiteError as error:
        missing.append(f"forecasters: {error}")
        return None, []
    return results, list(choose_forecasters(results, "window_tv"))


def advice_sentences(found: Findings) -> list[str]:
    """What to do, in at most five sentences, for somebody who has not read anything else."""
    return [
        text for text in (_states(found), _experts(found), _noise(found), _forecaster(found), _policy(found)) if text
    ]


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
            "made from the recent past hold from there on."
        )
    return (
        f"The expert loads have not stabilised in {name_layers(moving, len(last.names_L))}: there a plan is out of "
        "date soon, so re-plan from a short memory or wait."
    )


def _loaded(last: Snapshot) -> str:
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
    more = f", and {dying} more are about to" if dying else ""
    return (
        f"{dead} of {total} experts (over {_loaded(last)}) get less than a tenth of an even share{more}: if that is "
        f"not wanted, strengthen the balancing loss or restart those experts; no placement mends it.{without}"
    )


def _noise(found: Findings) -> str:
    last = found.last
    if last is None or not np.isfinite(last.outlook.scores.forecast_L).any():
        return ""
    scores = last.outlook.scores
    error = 100 * float(np.nanmean(scores.forecast_L))
    wrong = (
        f"A forecast of the next {last.outlook.horizon} steps put {error:.1f} % of the tokens with the wrong expert on "
        "average"
    )
    if not np.isfinite(scores.floor_L).any():
        return f"{wrong}."
    floor = 100 * float(np.nanmean(scores.floor_L))
    return f"{wrong}, of which {floor:.1f} % would be there for anybody, since batches differ."


def _forecaster(found: Findings) -> str:
    if not found.choices:
        return ""
    choice = found.choices[-1]
    others = len(choice.alike) - 1
    alike = f", which this run cannot tell from {others} other{'s' if others > 1 else ''}" if others else ""
    return f"To forecast it, take {choice.cheapest} in the {choice.state} state{alike}."


def _policy(found: Findings) -> str:
    if found.policy is None or found.comparison is None:
        return ""
    take, cluster = found.policy.cheapest, found.settings.cluster
    where = cluster.in_words(found.comparison.simulation.shape)
    if take.policy == "static" or take.saved_percent < found.settings.advice.least_percent:
        return (
            f"Leave the placement alone: the best policy saves {found.policy.best.saved_percent:.1f} % of the step "
            f"time (supposed: {where})."
        )
    return (
        f"Re-plan with {take.policy}, every {take.every:,} steps: it saves {take.saved_percent:.1f} % of the step "
        f"time with {take.replans} re-plans (supposed: {where})."
    )


def next_commands(found: Findings) -> list[str]:
    """The commands that go deeper, with this run's names and constants filled in."""
    source = shlex.quote(found.source)
    is_file = found.source.rstrip("/").endswith((".parquet", ".parts"))
    commands = [f"moeload-bench run --trace {source}"] if is_file else []
    if found.comparison is not None:
        options = cluster_options(found.comparison.simulation.shape, found.comparison.simulation.cost)
        commands.append(f"moeload-bench plan {source} --forecaster {shlex.quote(found.serves)} {options}")
    return commands

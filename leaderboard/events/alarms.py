"""Alarms on a run: events and two rivals, each as the steps at which it begins; and the records of a measurement.

The rivals are a threshold on max violation (the busiest expert's load over the mean, less 1, in the worst layer, over
the last 100 steps) and one on the z-score of the loss (mean of the last 10 steps against mean and standard deviation of
the 100 steps before). Both are looked at every 10 steps, as the state rule is. Traces have a row for every step.

Axis letters: C checks, L MoE layers, E experts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from leaderboard.committed import ROOT
from moeload_bench.arrays import FloatArray, IntArray
from moeload_bench.ops.facts.events import ALARMS, Event
from moeload_bench.ops.facts.inspector import Inspector
from moeload_bench.schema import Record
from moeload_bench.states.shifts import planned_shifts
from moeload_bench.traces.trace import Trace

MEASURED = ROOT / "leaderboard" / "events" / "measured.json"
CHECK, WINDOW = 10, 100
FIRST_STEP = 300
"""No label of the state rule is known earlier, so no alarm counts before it."""
WITHIN = 300
"""Steps after a break in which an alarm answers it; an alarm so soon after another one is the same."""
SWITCH_STEPS = WITHIN + WINDOW
"""Steps after a planned switch that are counted apart: units of `WINDOW` steps end later."""
EVENTS, VIOLATION, LOSS = "events", "max violation", "loss z-score"
SETTING = "setting"
"""A recorded setting that stepped: an event `moved` without a layer, counted apart from loads that moved."""
KINDS = (*ALARMS, SETTING)
BEFORE, AFTER = "before", "after"
"""Whether a layer has settled once."""


class Healthy(Record):
    """A run without a break.

    ``alarms``: events by kind, outside the 400 steps after a planned switch; ``planned``: those within. ``episodes``:
    alarms of events and of each rival outside, where those within 300 steps are one. ``watched``: layer-steps outside
    in which loads that move at once are an event, before the layer has settled once and after; ``moved``: how many did.
    """

    run: str
    steps: int
    balanced: bool
    switches: int
    alarms: dict[str, int]
    planned: dict[str, int]
    episodes: dict[str, int]
    watched: dict[str, int]
    moved: dict[str, int]


class Noticed(Record):
    """A break in a fork, or a planned switch, as the layers show it that were stable just before, or the others.

    ``delay``: after how many steps each kind of event and each rival came; None for not in 300 steps. A setting and a
    rival have no layer, and count in both.
    """

    base: str
    at: int
    name: str
    settled: bool
    layers: int
    delay: dict[str, int | None]


class Measured(Record):
    """Everything that was measured; the ``thresholds`` of rivals give as many false episodes as events do, or fewer.

    ``switches``: what was noticed of the switches that the recipes of the healthy runs planned.
    """

    thresholds: dict[str, float]
    healthy: tuple[Healthy, ...]
    switches: tuple[Noticed, ...]
    breaks: tuple[Noticed, ...]


def events_of(trace: Trace) -> list[Event]:
    """Return every event of a run that is an alarm."""
    found: list[Event] = []
    inspector = Inspector(trace.meta, on_event=found.append)
    inspector.add(trace)
    inspector.last_rows()
    return [event for event in found if event.kind in ALARMS]


def kind_of(event: Event) -> str:
    """Return the kind of an event, with steps of settings apart from moves of loads."""
    return SETTING if event.kind == "moved" and event.layer is None else event.kind


def check_steps(trace: Trace) -> IntArray:
    """Return the step that comes after each check, [C]: what was seen are the steps before it."""
    return np.asarray(trace.step_S[CHECK - 1 :: CHECK] + 1)


def scores(trace: Trace) -> Mapping[str, FloatArray]:
    """Return what each rival looks at, at each check, [C]; NaN where it is not known yet."""
    checks = len(check_steps(trace))
    load_CLE = _sums(trace.load_SLE, checks)
    violation_C, loss_C = np.full((2, checks), np.nan)
    loss_S = np.asarray(trace.columns["loss"], dtype=np.float64)
    for check in range(WINDOW // CHECK, checks):
        load_LE = load_CLE[check + 1 - WINDOW // CHECK : check + 1].sum(axis=0)
        violation_C[check] = (load_LE.max(axis=1) / load_LE.mean(axis=1)).max() - 1
        now = slice(check * CHECK, (check + 1) * CHECK)
        before_S = loss_S[now.start - WINDOW : now.start]
        loss_C[check] = (loss_S[now].mean() - before_S.mean()) / before_S.std()
    return {VIOLATION: violation_C, LOSS: loss_C}


def _sums(load_SLE: IntArray, checks: int) -> FloatArray:
    """Return the loads between checks, [C, L, E]."""
    by_check = np.asarray(load_SLE[: checks * CHECK], dtype=np.float64)
    return np.asarray(by_check.reshape(checks, CHECK, *load_SLE.shape[1:]).sum(axis=1))


def crossings(score_C: FloatArray, step_C: IntArray, threshold: float) -> list[int]:
    """Return the steps at which a score rises above a threshold."""
    above_C = np.nan_to_num(score_C, nan=-np.inf) > threshold
    risen_C = above_C & ~np.concatenate([[False], above_C[:-1]])
    return [int(step) for step in step_C[risen_C]]


def episodes(steps: Sequence[int]) -> list[int]:
    """Return the alarms from `FIRST_STEP` on that have no other one in the steps just before."""
    ordered = sorted(set(steps))
    before = [-WITHIN - 1, *ordered]
    return [step for step, last in zip(ordered, before, strict=False) if step - last > WITHIN and step > FIRST_STEP]


def planned_steps(trace: Trace) -> list[int]:
    """Return the steps of the planned switches of data and restarts of the learning rate."""
    return [int(trace.step_S[row]) for row in planned_shifts(trace)]


def unplanned(steps: Sequence[int], planned: Sequence[int]) -> list[int]:
    """Return the alarms that are not in the `SWITCH_STEPS` after a planned switch."""
    return [step for step in steps if not any(0 <= step - switch <= SWITCH_STEPS for switch in planned)]


def first_after(steps: Sequence[int], at: int) -> int | None:
    """Return how many steps after a break the first alarm came, None if none did in time."""
    return min((step - at for step in steps if 0 < step - at <= WITHIN), default=None)

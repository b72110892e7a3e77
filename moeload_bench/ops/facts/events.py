"""Events of a run: a layer settles or moves again, loads or settings move at once, an expert collapses or dies.

There is one for each episode, and one for its end. `EventDetector` takes what is known anyway: mean shares and the
state rule's label after each block of rows, and the loads of each unit of 100 steps. It keeps the last `LAST` events of
each kind: the two streams may be ahead of each other, so that the portions in which rows come decide nothing.

Axis letters: L MoE layers, E experts.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, get_args

import numpy as np

from moeload_bench.arrays import BoolArray, FloatArray, IntArray
from moeload_bench.errors import counted
from moeload_bench.ops.facts.conditions import Conditions, SettingWatch, change
from moeload_bench.ops.facts.experts import DEAD, DEAD_BLOCKS, FIRST_BLOCK
from moeload_bench.ops.facts.moves import MOVE_STEPS, LoadMove, LoadMoves

Kind = Literal["settled", "unsettled", "moved", "collapsed", "dead", "recovered"]
KINDS: tuple[Kind, ...] = get_args(Kind)
ALARMS: tuple[Kind, ...] = ("unsettled", "moved", "collapsed", "dead")
"""Kinds that call for somebody: the others are good news."""
CAUSE_STEPS = 200
"""Steps before an event in which a cause is looked for: those that the state rule compares."""
LAST = 50
"""Events of each kind that are kept."""


@dataclass(frozen=True)
class EventRule:
    """When the fall of an expert is an event, and what is a cause; chosen on the runs of
    docs/archive/fits/events.toml.

    ``collapse``: part of its former load below which an expert has collapsed, if it fell there within 100 steps;
    ``least_load``: an expert with less, times 1/E, cannot collapse, as noise could do that. ``recovery``: it has
    recovered at that many times the bound that it fell below. ``lr_change``: a learning rate that changed by this
    factor, up or down, is named as the cause.
    """

    collapse: float = 0.25
    least_load: float = 0.5
    recovery: float = 1.5
    lr_change: float = 2.0


class Event(NamedTuple):
    """What happened at ``step`` and was known at ``report_step``, the first step not seen then.

    ``layer``: its place among the MoE layers, None for a setting of the run. ``expert``: None for what a layer does.
    ``share``: the fraction of the layer's tokens that moved, None for other kinds. ``since``: the first step of what
    ended, None where nothing did. ``cause``: what changed just before, empty for nothing known. ``words`` say it all
    but the step: "layer 1 unsettled, stable since step 450: learning rate 0.001 -> 0.03".
    """

    kind: Kind
    step: int
    report_step: int
    layer: int | None
    expert: int | None
    since: int | None
    cause: str
    words: str
    share: float | None = None

    @property
    def sentence(self) -> str:
        """Return the step and the words."""
        return f"Step {self.step:,}: {self.words}."


class Events(NamedTuple):
    """How many events of each kind there were, and the last `LAST` of each kind in the order of their reports."""

    counts: Mapping[str, int]
    last: tuple[Event, ...]

    @property
    def total(self) -> int:
        """Return how many events there were."""
        return sum(self.counts.values())

    def collapses(self) -> list[Event]:
        """Return the collapses whose experts have not recovered."""
        ended = {(event.layer, event.expert, event.since) for event in self.last if event.kind == "recovered"}
        collapses = (event for event in self.last if event.kind == "collapsed")
        return [event for event in collapses if (event.layer, event.expert, event.step) not in ended]


class EventDetector:
    """Finds the events of a run. ``names_L``: of its layers; a block has ``block_steps``, a unit ``unit_steps``.

    Experts have events only once their layer has settled for the first time: before that, loads find their places. What
    moves at once is found from step 200 on. ``schedule``: of the learning rate, as the metadata has it.
    """

    def __init__(
        self,
        names_L: Sequence[str],
        experts: int,
        block_steps: int,
        unit_steps: int,
        rule: EventRule | None = None,
        schedule: Mapping[str, Any] | None = None,
    ) -> None:
        shape = (len(names_L), experts)
        self._moves, self._block_steps = LoadMoves(len(names_L), block_steps), block_steps
        self._settings = SettingWatch(self._moves.blocks, schedule or {})
        self._names_L, self._unit_steps, self._rule = names_L, unit_steps, rule or EventRule()
        self._counts: dict[str, int] = dict.fromkeys(KINDS, 0)
        self._last: dict[str, deque[Event]] = {kind: deque(maxlen=LAST) for kind in KINDS}
        self._by_block: deque[Conditions] = deque(maxlen=CAUSE_STEPS // block_steps + 1)
        self._settled_L: BoolArray = np.zeros(len(names_L), dtype=np.bool_)
        self._label_since_L: IntArray = np.full(len(names_L), -1)
        self._first_settled_L: FloatArray = np.full(len(names_L), np.inf)
        self._by_unit: deque[Conditions] = deque(maxlen=max(1, CAUSE_STEPS // unit_steps) + 1)
        self._share: deque[FloatArray] = deque(maxlen=FIRST_BLOCK)
        self._dead_LE: BoolArray = np.zeros(shape, dtype=np.bool_)
        self._bound_LE: FloatArray = np.zeros(shape)
        self._since_LE: IntArray = np.full(shape, -1)

    @property
    def events(self) -> Events:
        """Return the events so far."""
        last = sorted((event for kind in self._last.values() for event in kind), key=_order)
        return Events(dict(self._counts), tuple(last))

    def add_block(self, next_step: int, share_LE: FloatArray, conditions: Conditions) -> list[Event]:
        """Take in the mean shares of a block that ends before a step, and its conditions; return what moved at once."""
        stepped = self._settings.add(conditions)
        events = [self._move_event(next_step, move, conditions) for move in self._moves.add(share_LE)]
        if stepped:
            step = next_step - self._block_steps
            words = f"{stepped}, within {self._block_steps} steps"
            events.append(Event("moved", step, next_step, None, None, None, stepped, words))
        return self._count(events)

    def add_labels(self, step: int, transient_L: BoolArray, conditions: Conditions) -> list[Event]:
        """Take in the labels at a step and the conditions of the row before it; return what is new."""
        self._by_block.append(conditions)
        changed = np.flatnonzero(transient_L == self._settled_L).tolist()
        events = [self._label_event(step, layer) for layer in changed]
        self._settled_L = ~transient_L
        self._label_since_L[changed] = step
        self._first_settled_L[self._settled_L] = np.minimum(self._first_settled_L[self._settled_L], step)
        return self._count(events)

    def add_unit(self, next_step: int, share_LE: FloatArray, died_LE: BoolArray, conditions: Conditions) -> list[Event]:
        """Take in a unit that ends before a step; return what is new.

        ``share_LE``: mean load over an equal share, NaN in a layer without load. ``died_LE``: experts whose death is
        known now. ``conditions``: of the unit's last row.
        """
        self._by_unit.append(conditions)
        events = [
            *self._recoveries(next_step, share_LE),
            *self._collapses(next_step, share_LE),
            *self._deaths(next_step, died_LE),
        ]
        self._share.append(share_LE)
        return self._count(events)

    def _count(self, events: list[Event]) -> list[Event]:
        for event in events:
            self._counts[event.kind] += 1
            self._last[event.kind].append(event)
        return events

    def _label_event(self, step: int, layer: int) -> Event:
        """Return that a layer settled, or moves again."""
        name, since = f"layer {self._names_L[layer]}", int(self._label_since_L[layer])
        if not self._settled_L[layer]:
            if since < 0:
                return Event("settled", step, step, layer, None, None, "", f"{name} settled")
            words = f"{name} settled again, unsettled since step {since:,}"
            return Event("settled", step, step, layer, None, since, "", words)
        cause = self._cause(self._by_block)
        words = _with_cause(f"{name} unsettled, stable since step {since:,}", cause)
        return Event("unsettled", step, step, layer, None, since, cause, words)

    def _move_event(self, next_step: int, move: LoadMove, conditions: Conditions) -> Event:
        """Return that the loads of a layer moved at once."""
        cause = self._cause([*self._by_block, conditions])
        share = f"{100 * move.moved:.0f} % of its tokens in {MOVE_STEPS} steps"
        words = f"layer {self._names_L[move.layer]} moved {share} (at most {100 * move.before:.0f} % before)"
        step = next_step - self._moves.lag * self._block_steps
        return Event("moved", step, next_step, move.layer, None, None, cause, _with_cause(words, cause), move.moved)

    def _recoveries(self, next_step: int, share_LE: FloatArray) -> Iterator[Event]:
        """Yield the experts that are back above the bound that they fell below, and end their episodes."""
        back_LE = (self._bound_LE > 0) & (share_LE >= self._rule.recovery * self._bound_LE)
        step = next_step - self._unit_steps
        for layer, expert in np.argwhere(back_LE).tolist():
            since, share = int(self._since_LE[layer, expert]), share_LE[layer, expert]
            words = f"{self._name(layer, expert)} recovered to {share:.2f} of an equal share, down since step {since:,}"
            yield Event("recovered", step, next_step, layer, expert, since, "", words)
        self._dead_LE[back_LE] = False
        self._bound_LE[back_LE] = 0.0

    def _collapses(self, next_step: int, share_LE: FloatArray) -> Iterator[Event]:
        """Yield the experts that fell below a part of their load, and begin their episodes.

        The fall may lie across the unit before this one, so that the load before it is that of the two units before
        that one, the lesser of them: a single high unit makes no collapse.
        """
        if len(self._share) < FIRST_BLOCK:
            return
        before_LE = np.minimum(self._share[0], self._share[1])
        step, cause = next_step - self._unit_steps, self._cause(self._by_unit)
        bound_LE = self._rule.collapse * before_LE
        fell_LE = (share_LE < bound_LE) & (before_LE >= self._rule.least_load) & (self._bound_LE == 0)
        fell_LE &= self._settled_before(step)
        for layer, expert in np.argwhere(fell_LE).tolist():
            fall = f"{before_LE[layer, expert]:.2f} to {share_LE[layer, expert]:.2f} of an equal share"
            words = _with_cause(f"{self._name(layer, expert)} collapsed from {fall}", cause)
            yield Event("collapsed", step, next_step, layer, expert, None, cause, words)
        self._bound_LE = np.where(fell_LE, bound_LE, self._bound_LE)
        self._since_LE[fell_LE] = step

    def _deaths(self, next_step: int, died_LE: BoolArray) -> Iterator[Event]:
        """Yield the experts that died, whether they had collapsed or fell slowly."""
        step = next_step - DEAD_BLOCKS * self._unit_steps
        died_LE = died_LE & ~self._dead_LE & self._settled_before(step)
        for layer, expert in np.argwhere(died_LE).tolist():
            words = f"{self._name(layer, expert)} dead, below {DEAD:g} of an equal share"
            yield Event("dead", step, next_step, layer, expert, None, "", words)
        self._since_LE = np.where(died_LE & (self._bound_LE == 0), step, self._since_LE)
        self._bound_LE = np.where(died_LE, np.maximum(self._bound_LE, DEAD), self._bound_LE)
        self._dead_LE |= died_LE

    def _settled_before(self, step: int) -> BoolArray:
        """Return which layers had settled once by a step, [L, 1]."""
        return np.asarray(self._first_settled_L <= step)[:, None]

    def _cause(self, conditions: Sequence[Conditions]) -> str:
        return change(conditions[0], conditions[-1], self._rule.lr_change)

    def _name(self, layer: int, expert: int) -> str:
        return f"expert {self._names_L[layer]}.{expert}"


def event_sentences(events: Events, most: int) -> Iterator[str]:
    """Yield how many events there were, and the last ones, the newest first; nothing without an event."""
    if not events.total:
        return
    by_kind = ", ".join(f"{number:,} {kind}" for kind, number in events.counts.items() if number)
    yield f"{counted(events.total, 'event')}: {by_kind}. The newest first:"
    for event in events.last[: -most - 1 : -1]:
        yield event.sentence


def moments(events: Iterable[Event], within: int) -> list[tuple[int, str]]:
    """Return when something happened, in order, each with its words: events of a kind within so many steps as one."""
    groups: list[list[Event]] = []
    for event in sorted(events, key=lambda event: (*_sort(event), event.step)):
        if not groups or _sort(groups[-1][0]) != _sort(event) or event.step - groups[-1][0].step >= within:
            groups.append([])
        groups[-1].append(event)
    return sorted((group[0].step, _together(group)) for group in groups)


def _sort(event: Event) -> tuple[int, bool]:
    """Return what events that are one moment share: their kind, and whether it is a setting that moved."""
    return KINDS.index(event.kind), event.layer is None


def _together(group: Sequence[Event]) -> str:
    """Return the words of one event, or of several of a kind."""
    if len(group) == 1:
        return group[0].words
    number = len({(event.layer, event.expert) for event in group})
    who = counted(number, "layer" if group[0].expert is None else "expert")
    return _with_cause(f"{who} {group[0].kind}", next((event.cause for event in group if event.cause), ""))


def _with_cause(words: str, cause: str) -> str:
    return f"{words}: {cause}" if cause else words


def _order(event: Event) -> tuple[int, bool, int, int]:
    """Return where an event comes among others: by its report, experts last, then by step and kind."""
    return event.report_step, event.expert is not None, event.step, KINDS.index(event.kind)

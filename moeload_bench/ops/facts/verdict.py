"""What the facts of a run come to, in sentences: settled or not, balance against noise alone, what to do.

Axis letters: L MoE layers, K expert-parallel sizes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple

import numpy as np

from moeload_bench.arrays import BoolArray
from moeload_bench.errors import counted
from moeload_bench.ops.facts.inspector import Inspection
from moeload_bench.ops.facts.moves import BEFORE_STEPS
from moeload_bench.ops.facts.remedies import pooled_balance, stronger
from moeload_bench.states.rule import StateRule
from moeload_bench.traces.means import mean_known
from moeload_bench.words import every, listed, shown

AT_FLOOR = 1.05
"""Balance counts as that of noise alone up to so many times the lower end of it."""
ABOVE_SWING = 1.25
"""From so many times the upper end on, balance is above noise even where loads swing: a swing only raises that end."""
FAR_ABOVE = 1.5
"""From so many times noise alone on, balancing is worth an engineer's time."""
EVEN_RANKS = 1.1
"""A rank this much busier than the mean one costs little."""
LR_DECAYED = 0.5
"""Part of the largest learning rate before, below which it has decayed."""
DROPPED = 0.01
"""Fraction of a layer's routed tokens from which on dropping is urgent."""
MANY_DEAD = 0.05
"""Part of all experts: more dead ones than that are urgent."""
LATELY = 1000
"""Steps in which a collapse of an expert is urgent."""
MOST_TO_DO = 3
MOST_NAMES = 4

Balance = Literal["noise alone", "above noise", "cannot tell", "no load"]


class Assessment(NamedTuple):
    """``headline``: the state in capitals, and what is urgent. ``balance``: now against noise alone. ``age``: how stale
    a placement becomes, empty where loads have settled. ``to_do``: at most three sentences, the most urgent first.
    ``urgent``: how many things should not wait, those left out of ``to_do`` too.
    """

    headline: str
    balance: str
    age: str
    to_do: tuple[str, ...]
    urgent: int


def assess(facts: Inspection) -> Assessment:
    """Return what the facts come to."""
    urgent = list(_urgent(facts))
    to_do = [*urgent, *_worth_doing(facts)][:MOST_TO_DO]
    parts = [_state(facts), *_experts(facts), *_not_watched(facts), counted_urgent(len(urgent))]
    return Assessment(f"{'; '.join(parts)}.", _balance(facts), _age(facts), tuple(to_do), len(urgent))


def counted_urgent(number: int) -> str:
    """Return `nothing urgent`, `1 thing is urgent`, `2 things are urgent`."""
    return "nothing urgent" if not number else f"{counted(number, 'thing')} {'is' if number == 1 else 'are'} urgent"


def balance_of(facts: Inspection) -> list[Balance]:
    """Return of each layer whether its busiest expert is what noise alone would give.

    Without half batches noise lies between two ends: only a balance at the lower end or above the upper one can be told
    from noise. Where loads swing from row to row, the upper one may hold the swing too: only far above it is certain.
    """
    busiest_L, low_L, high_L = facts.busiest_L, facts.low_L, facts.high_L
    unknown_L = np.isnan(high_L) | (facts.oscillates_L & (not facts.has_half))
    cases: list[tuple[Balance, BoolArray]] = [
        ("no load", np.isnan(busiest_L)),
        ("above noise", busiest_L > ABOVE_SWING * high_L),
        ("cannot tell", unknown_L),
        ("noise alone", busiest_L <= AT_FLOOR * low_L),
        ("above noise", busiest_L > AT_FLOOR * high_L),
    ]
    kinds, which = zip(*cases, strict=True)
    return list(np.select(which, kinds, "cannot tell").tolist())


# ---------------------------------------------------------------- state


def _state(facts: Inspection) -> str:
    """Return the state in capitals, with the step since when it holds."""
    states, rule = facts.states, StateRule()
    if states is None:
        return f"STATE UNKNOWN: the rule needs a row every 1, 2, 4, 5, 10, 20 or 25 steps, not {facts.meta.stride:,}"
    loaded_L = ~facts.silent_L
    if not loaded_L.any():
        return "NO LOAD in any layer"
    settled_L = loaded_L & ~states.unsettled_L
    if not settled_L.any():
        seen = facts.rows * facts.meta.stride
        if seen < rule.earliest_stable:
            return (
                f"TOO EARLY: after {counted(seen, 'step')}; the first layers can settle after {rule.earliest_stable:,}"
            )
        again_L = loaded_L & (states.onset_L3[:, 0] >= 0)
        if again_L.any():
            return f"NOT SETTLED any more since step {int(states.since_L[again_L].max()):,}"
        return f"NOT SETTLED: at step {facts.step:,} loads still move in {every(int(loaded_L.sum()), 'layer')}"
    since = int(states.since_L[settled_L].max())
    if facts.state == "settled":
        return f"SETTLED since step {since:,}{_decayed(facts, since)}"
    moving, number = loaded_L & states.unsettled_L, int(settled_L.sum())
    return (
        f"MIXED: {number} of {counted(len(loaded_L), 'layer')} {'has' if number == 1 else 'have'} settled, the last at "
        f"step {since:,}; {_layers(facts, moving)} {'moves' if moving.sum() == 1 else 'move'}"
    )


def _decayed(facts: Inspection, since: int) -> str:
    """Return that loads settled under a learning rate that had decayed by then: smaller steps alone do that."""
    line = facts.timeline
    if line is None or "lr" not in line.run:
        return ""
    lr_M = line.run["lr"][: max(1, int(np.searchsorted(line.run_step_M, since, side="right")))]
    if not lr_M[-1] < LR_DECAYED * np.nanmax(lr_M, initial=0.0):
        return ""
    part = 100 * lr_M[-1] / np.nanmax(lr_M)
    return f" (at {part:.2g} % of the largest learning rate before: smaller steps alone settle loads)"


def _layers(facts: Inspection, which_L: BoolArray) -> str:
    """Return `layer 3`, `layers 3, 4 and 9`, or how many they are."""
    names = [facts.names_L[layer] for layer in np.flatnonzero(which_L).tolist()]
    if len(names) > MOST_NAMES:
        return f"{len(names):,} layers"
    return f"layer{'s' if len(names) > 1 else ''} {listed(names)}" if names else "no layer"


def _experts(facts: Inspection) -> Iterator[str]:
    """Yield how many experts are dead, and how many layers have no load."""
    dead = int(facts.dead_LE.sum())
    yield "no expert is dead" if not dead else f"{counted(dead, 'expert')} {'is' if dead == 1 else 'are'} dead"
    silent = int(facts.silent_L.sum())
    if silent:
        yield f"{counted(silent, 'layer')} without load"


def _not_watched(facts: Inspection) -> Iterator[str]:
    """Yield what no event can say yet: of any layer at first, of experts until their layer has settled."""
    if facts.states is None or facts.rows * facts.meta.stride <= BEFORE_STEPS:
        yield "no layer is watched for events yet"
        return
    number = int((~facts.silent_L & (facts.states.onset_L3[:, 0] < 0)).sum())
    if number:
        settled = "it settles" if number == 1 else "they settle"
        yield f"experts of {counted(number, 'layer')} not watched before {settled}"


# ---------------------------------------------------------------- balance


def _balance(facts: Inspection) -> str:
    """Return balance now against noise alone, and the worst layer."""
    if facts.silent_L.all():
        return "Balance: no load."
    now, low, high = (mean_known(value_L) for value_L in (facts.busiest_L, facts.low_L, facts.high_L))
    worst = facts.worst
    layer = f", worst layer {facts.busiest_L[worst]:.2f} ({facts.names_L[worst]})" if len(facts.names_L) > 1 else ""
    pooled = "".join(f", {words}" for words in pooled_balance(facts))
    return (
        f"Busiest expert over the mean one, last {counted(facts.recent, 'row')}: now {now:.2f}{layer}"
        f"{pooled}; noise alone "
        f"(all experts equally likely) {ends(low, high)}. {against_noise(facts)}"
    )


def ends(low: float, high: float) -> str:
    """Return `1.05`, `1.04 to 1.05`, or that the upper end is not known."""
    if np.isnan(high):
        return "unknown"
    return f"{low:.2f}" if f"{low:.2f}" == f"{high:.2f}" else f"{low:.2f} to {high:.2f}"


def against_noise(facts: Inspection) -> str:
    """Return of how many layers the balance is noise alone, more than it, or cannot be told."""
    kinds = balance_of(facts)
    number = {kind: kinds.count(kind) for kind in ("noise alone", "above noise", "cannot tell")}
    most, layers = max(number, key=lambda kind: number[kind]), len(kinds) - kinds.count("no load")
    which = every(layers, "layer") if number[most] == layers else f"{number[most]} of {layers} layers"
    return {
        "noise alone": f"No balancing could do better in {which}.",
        "above noise": f"More than noise in {which}.",
        "cannot tell": f"Whether that is noise: cannot tell in {which}.",
    }[most]


def _age(facts: Inspection) -> str:
    """Return how stale a placement becomes, where a layer moves: how many tokens go to other experts in 100 steps."""
    states = facts.states
    if states is None or facts.state == "settled" or np.isnan(states.drift_L).all():
        return ""
    worst = int(np.nan_to_num(states.drift_L).argmax())
    layer = f" ({100 * states.drift_L[worst]:.1f} % in layer {facts.names_L[worst]})" if len(facts.names_L) > 1 else ""
    mean = 100 * mean_known(states.drift_L)
    return f"A placement ages by {mean:.1f} % of tokens in 100 steps{layer}."


# ---------------------------------------------------------------- what to do


def _urgent(facts: Inspection) -> Iterator[str]:
    """Yield what should not wait: loads that moved again, dropped tokens, many dead experts."""
    states = facts.states
    if states is not None:
        again_L = states.unsettled_L & (states.onset_L3[:, 0] >= 0) & ~facts.silent_L
        if again_L.any():
            since = int(states.since_L[again_L].min())
            moving, cause = _layers(facts, again_L), _cause(facts, since)
            yield f"Look at what changed about step {since:,}: loads had settled, and move in {moving}{cause}."
    yield from _moved(facts)
    yield from _collapsed(facts)
    if facts.dropped_L is not None and np.nanmax(facts.dropped_L, initial=0.0) > DROPPED:
        worst = int(np.nan_to_num(facts.dropped_L).argmax())
        yield (
            f"Raise the capacity factor, or balance better: {100 * mean_known(facts.dropped_L):.1f} % of routed tokens "
            f"are dropped, {100 * facts.dropped_L[worst]:.1f} % in layer {facts.names_L[worst]}."
        )
    dead = int(facts.dead_LE.sum())
    if dead > MANY_DEAD * facts.dead_LE.size:
        yield (
            f"Revive {dead:,} of {facts.dead_LE.size:,} experts, with less than a tenth of an equal share: "
            f"{stronger(facts)}, or restart them from busy ones."
        )


def _cause(facts: Inspection, step: int) -> str:
    """Return since when a layer that moves again had been stable, and what changed before it moved."""
    for event in facts.events.last:
        if event.kind == "unsettled" and event.step == step:
            return f" (stable since {event.since:,}{f'; {event.cause}' if event.cause else ''})"
    return ""


def _moved(facts: Inspection) -> Iterator[str]:
    """Yield which layers that have not settled moved at once lately, all those of the last moment together."""
    states, since = facts.states, facts.step - LATELY
    if states is None:
        return
    never_L = states.unsettled_L & (states.onset_L3[:, 0] < 0)
    moves = [event for event in facts.events.last if event.share and event.step >= since and never_L[event.layer]]
    last = [event for event in moves if event.step > moves[-1].step - BEFORE_STEPS]
    if last:
        layers_L = np.isin(np.arange(len(never_L)), [event.layer for event in last if event.layer is not None])
        most = max(event.share or 0.0 for event in last)
        cause = next((f" ({event.cause})" for event in last if event.cause), "")
        yield (
            f"Look at what changed about step {last[0].step:,}{cause}: up to {100 * most:.0f} % of a layer's tokens "
            f"moved at once, in {_layers(facts, layers_L)}."
        )


def _collapsed(facts: Inspection) -> Iterator[str]:
    """Yield which experts collapsed lately, all those of the last moment together."""
    lately = [event for event in facts.events.collapses() if event.step >= facts.step - LATELY]
    last = [event for event in lately if event.step == lately[-1].step]
    if len(last) == 1:
        yield f"Look at what changed about step {last[0].step:,}: {last[0].words}."
    elif last:
        cause = f" ({last[0].cause})" if last[0].cause else ""
        fallen = [(event.layer, event.expert) for event in last if event.layer is not None]
        yield (
            f"Look at what changed about step {last[0].step:,}{cause}: {len(last)} experts fell below a quarter of "
            f"their load, {_expert_names(facts, fallen)}."
        )


def _worth_doing(facts: Inspection) -> Iterator[str]:
    """Yield what is worth doing, the most useful first."""
    kinds = balance_of(facts)
    excess_L = facts.busiest_L / facts.high_L
    dead, falling = _pairs(facts.dead_LE), _pairs(facts.dying_LE)
    many_dead = len(dead) > MANY_DEAD * facts.dead_LE.size
    if mean_known(excess_L) > FAR_ABOVE and not many_dead:
        advice, times = stronger(facts), mean_known(excess_L)
        yield f"{advice[0].upper()}{advice[1:]}: the busiest expert has {times:.1f} times what noise alone gives."
    if dead and not many_dead:
        yield f"Watch the dead, with less than a tenth of an equal share: {_expert_names(facts, dead)}."
    if falling:
        names = _expert_names(facts, falling)
        yield f"Watch the falling: {names} fell below a fifth of an equal share, without a recovery."
    if "cannot tell" in kinds and not facts.has_half:
        yield "Record half batches (column load_half; this recorder does): they tell noise from imbalance."


def _pairs(which_LE: BoolArray) -> list[tuple[int, int]]:
    """Return layer and expert of each that is marked."""
    return [(layer, expert) for layer, expert in np.argwhere(which_LE).tolist()]


def _expert_names(facts: Inspection, pairs: Sequence[tuple[int, int | None]]) -> str:
    """Return `layer.expert 1.3, 1.4 and 2 more` from layers and experts."""
    names = [f"{facts.names_L[layer]}.{expert}" for layer, expert in pairs[:MOST_NAMES]]
    more = f" and {len(pairs) - len(names):,} more" if len(pairs) > len(names) else ""
    return f"layer.expert {', '.join(names)}{more}"


class RankRow(NamedTuple):
    """An expert-parallel size in words: the busiest rank over the mean one, mean over layers and in the worst layer.

    ``tokens``: the most that a rank received in one row.
    """

    size: int
    mean: str
    noise: str
    worst: str
    worst_layer: str
    tokens: int


def rank_rows(facts: Inspection) -> Iterator[RankRow]:
    """Yield the expert-parallel table, the smallest size first."""
    table = facts.ranks
    for k, size in enumerate(table.size_K):
        worst = int(np.nan_to_num(table.busiest_KL[k], nan=-1.0).argmax())
        yield RankRow(
            size,
            shown(mean_known(table.busiest_KL[k]), ".2f"),
            ends(mean_known(table.low_KL[k]), mean_known(table.high_KL[k])),
            shown(float(table.busiest_KL[k, worst]), ".2f"),
            facts.names_L[worst],
            int(table.tokens_KL[k].max()),
        )


def rank_sentence(facts: Inspection) -> str:
    """Return up to which expert-parallel size the busiest rank is within 10 % of the mean one."""
    sizes = zip(facts.ranks.size_K, facts.ranks.busiest_KL, strict=True)
    even = [size for size, of_L in sizes if mean_known(of_L) <= EVEN_RANKS]
    return f"within 10 % up to {counted(max(even), 'rank')}." if even else "more than 10 % above it at every size."

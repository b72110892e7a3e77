"""The tables of a run: every layer, every expert-parallel size, the hottest and coldest experts, deaths.

Axis letters: L MoE layers, E experts.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from rich.console import RenderableType
from rich.text import Text

from moeload_bench.errors import printable
from moeload_bench.inspection.events import event_sentences
from moeload_bench.inspection.facts import Inspection
from moeload_bench.inspection.measured import cost_sentences
from moeload_bench.inspection.overview import rank_lines
from moeload_bench.inspection.starving import alarm_errors, death_sentences
from moeload_bench.inspection.verdict import balance_of, ends
from moeload_bench.results.console import plain_table
from moeload_bench.scoring.metrics import DEAD_SHARE
from moeload_bench.words import shown

NAMED = 8
"""Experts that are named as the hottest or the coldest."""
NEWEST = 20
"""Events that are described."""
LAYER_HEADS = ("layer", "state", "first settled", "drift", "now", "noise", "is", "dead", "fall")
SHORT = {"noise alone": "noise", "above noise": "above", "cannot tell": "?", "no load": "-"}
ABOUT_LAYERS = (
    "state: whether loads settled or move, and since which step. first settled: by the rule, and by looser to stricter "
    "thresholds. drift: percent of a layer's tokens that move to other experts between two windows of 100 steps. now: "
    "busiest expert over the mean one. noise: what would be seen if all experts were equally likely. is: what "
    f"now is by that, ? for cannot tell. dead: experts below {DEAD_SHARE:g} of an equal share. fall: experts that "
    "fell below a fifth of it and have not recovered."
)


def details(found: Inspection, token_bytes: float | None = None) -> Iterator[RenderableType]:
    """Yield the tables, each with what its columns mean."""
    table = plain_table(*LAYER_HEADS, left=("state", "is"), fold="layer")
    for cells in layer_rows(found):
        table.add_row(*cells)
    yield table
    yield Text(ABOUT_LAYERS)
    yield Text("")
    yield from rank_lines(found, token_bytes, most=len(found.ranks.size_K))
    yield Text("")
    yield from map(Text, expert_sentences(found))
    yield from map(Text, cost_sentences(found.measured))
    yield Text("")
    yield from map(Text, event_sentences(found.events, NEWEST))


def layer_rows(found: Inspection) -> Iterator[tuple[str, ...]]:
    """Yield the cells of each layer, in the order of `LAYER_HEADS`."""
    balance, states = balance_of(found), found.states
    for layer, name in enumerate(found.names_L):
        state = ("-", "-", "-")
        if states is not None:
            state = (
                f"{'moves' if states.unsettled_L[layer] else 'settled'} {max(0, states.since_L[layer]):,}",
                _onset(*states.onset_L3[layer].tolist()),
                shown(100 * states.drift_L[layer], ".2f"),
            )
        yield (
            printable(name),
            *state,
            shown(found.busiest_L[layer], ".2f"),
            ends(found.low_L[layer], found.high_L[layer]),
            SHORT[balance[layer]],
            str(int(found.dead_LE[layer].sum())),
            str(int(found.dying_LE[layer].sum())),
        )


def _onset(step: int, loose: int, strict: int) -> str:
    """Return `480 (400-610)`, `never` for -1."""
    step_, loose_, strict_ = ("never" if one < 0 else f"{one:,}" for one in (step, loose, strict))
    return f"{step_} ({loose_}-{strict_})"


def expert_sentences(found: Inspection) -> Iterator[str]:
    """Yield the hottest and the coldest experts, those that fall, and what was seen at deaths."""
    load_X = (found.share_LE * found.meta.experts).ravel()
    order = np.argsort(load_X, kind="stable")[: int(np.isfinite(load_X).sum())]
    if order.size:
        yield f"Hottest experts (layer.expert, load over an equal share): {_names(found, order[::-1][:NAMED])}."
        yield f"Coldest: {_names(found, order[:NAMED])}."
    if found.dying_LE.any():
        yield f"Falling: {_names(found, np.flatnonzero(found.dying_LE)[:NAMED])}. {alarm_errors()}"
    yield from death_sentences(found.deaths, found.names_L)


def _names(found: Inspection, flat: np.ndarray) -> str:
    """Name experts, given by their places in a flat [L, E], each with its load over an equal share."""
    E = found.meta.experts
    pairs = zip(*(one.tolist() for one in np.divmod(flat, E)), strict=True)
    return ", ".join(
        f"{found.names_L[layer]}.{expert} {found.share_LE[layer, expert] * E:.2f}" for layer, expert in pairs
    )

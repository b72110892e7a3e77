"""Two runs, or two parts of one: which balances better, how far loads moved, whether a placement made on one holds.

`compare` gives a `Comparison`, `comparison` its screen.

Axis letters: S rows, L MoE layers, E experts, K expert-parallel sizes.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from moeload_bench.arrays import FloatArray, IntArray, json_value
from moeload_bench.errors import TraceError, printable
from moeload_bench.ops.facts.inspector import Inspection, Inspector
from moeload_bench.placement.cost import step_imbalance
from moeload_bench.placement.plans import ClusterShape, plan
from moeload_bench.results.render import plain_table
from moeload_bench.states.rule import StateRule
from moeload_bench.traces.means import mean_known, mean_over
from moeload_bench.words import shown

ALIKE = 0.05
"""Two balances are alike if their excess over noise differs by at most this part."""
WORTH_PLACING = 0.02
"""A placement is worth a sentence if it makes the busiest rank of some size this much less busy, over the mean."""
SIDE_HEADS = ("steps", "state", "busiest expert over the mean", "noise alone", "dead experts")


@dataclass(frozen=True, eq=False)
class Comparison:
    """``first`` against ``second``; what is said of placements is measured on the second's last rows.

    Busiest rank over the mean one, by expert-parallel size and layer: ``placed_KL`` under the most even placement by
    the first's mean loads, ``best_KL`` under that by the second's own. ``drift_L``: fraction of a layer's tokens that
    go to other experts in the second, by mean shares.
    """

    first: Inspection
    second: Inspection
    placed_KL: FloatArray
    best_KL: FloatArray
    drift_L: FloatArray

    @property
    def record(self) -> dict[str, Any]:
        """What `--json` prints."""
        fields = {name: getattr(self, name) for name in ("placed_KL", "best_KL", "drift_L")}
        runs = {"first": self.first.record, "second": self.second.record}
        return {**runs, **json_value(fields), "says": list(sentences(self))}


def compare(first: Inspector, second: Inspector) -> Comparison:
    """Return how two runs compare; raise `TraceError` unless they have as many layers and experts."""
    left, right = first.inspection(), second.inspection()
    shapes = [(len(each.names_L), each.meta.experts) for each in (left, right)]
    if shapes[0] != shapes[1]:
        (L, E), (layers, experts) = shapes
        raise TraceError(f"cannot compare {L} layers x {E} experts with {layers} layers x {experts} experts")
    share_SLE = second.last_rows().covariates["share"]
    placed, best = (
        np.stack([_busiest(each.share_LE, size, share_SLE) for size in right.ranks.size_K]) for each in (left, right)
    )
    drift_L = 0.5 * np.abs(left.share_LE - right.share_LE).sum(axis=1)
    return Comparison(left, right, placed, best, drift_L)


def _busiest(share_LE: FloatArray, size: int, share_SLE: FloatArray) -> FloatArray:
    """Return the busiest rank over the mean one under the most even placement by mean shares; [L]."""
    return mean_over(step_imbalance(even_placement(share_LE, size), share_SLE, size), axis=0)


def even_placement(share_LE: FloatArray, size: int) -> IntArray:
    """Return the expert in each slot [L, E], E / size on each rank: the most even by mean shares, without replicas."""
    L, E = share_LE.shape
    if size in (1, E):
        return np.tile(np.arange(E), (L, 1))
    known_L1 = np.isfinite(share_LE).all(axis=1, keepdims=True)
    return plan(np.where(known_L1, share_LE, 1.0 / E), ClusterShape("even", size, E))


def sentences(runs: Comparison) -> Iterator[str]:
    """Yield which balances better, how far loads moved, and whether a placement holds."""
    yield _better(runs)
    dead, before = (int(each.dead_LE.sum()) for each in (runs.second, runs.first))
    if dead != before:
        yield f"Dead experts: {before:,} in the first, {dead:,} in the second."
    if np.isfinite(runs.drift_L).any():
        worst = int(np.nanargmax(runs.drift_L))
        yield (
            f"Between them {100 * mean_known(runs.drift_L):.1f} % of tokens moved to other experts, most in layer "
            f"{runs.second.names_L[worst]}: {100 * runs.drift_L[worst]:.1f} %."
        )
    yield _holds(runs)


def _better(runs: Comparison) -> str:
    """Return which of the two balances better, by the excess of the busiest expert over noise alone."""
    now = [mean_known(each.busiest_L) for each in (runs.first, runs.second)]
    noise = [mean_known(each.high_L) for each in (runs.first, runs.second)]
    alone = [f"{bound:.2f}" if np.isfinite(bound) else "unknown" for bound in noise]
    words = (
        f"busiest expert over the mean one {now[0]:.2f} in the first (noise alone {alone[0]}), {now[1]:.2f} in "
        f"the second ({alone[1]})"
    )
    comparable = all(np.isfinite([*now, *noise]))
    ratio = (now[1] / noise[1]) / (now[0] / noise[0]) if comparable else now[1] / now[0]
    if abs(np.log(ratio)) <= ALIKE:
        return f"They balance alike: {words}."
    return f"The {'second' if ratio < 1 else 'first'} balances better: {words}."


def _holds(runs: Comparison) -> str:
    """Return how much of a placement's gain is left on the second, at the size where it gains most."""
    even_K, placed_K, best_K = (
        np.array([mean_known(of_L) for of_L in table_KL])
        for table_KL in (runs.second.ranks.busiest_KL, runs.placed_KL, runs.best_KL)
    )
    gain_K = even_K - best_K
    k = int(np.nan_to_num(gain_K, nan=-1.0).argmax())
    if not gain_K[k] > WORTH_PLACING:
        return "No placement of the experts would make ranks of the second more even."
    part = (even_K[k] - placed_K[k]) / gain_K[k]
    size = runs.second.ranks.size_K[k]
    held = f"keeps {100 * part:.0f} % of its gain" if part > 0 else "makes ranks less even"
    return (
        f"The most even placement made on the first {held} on the second: at {size} ranks the busiest has "
        f"{even_K[k]:.2f} times the mean in the order of numbers, {placed_K[k]:.2f} under it, {best_K[k]:.2f} under "
        "the second's own."
    )


# ---------------------------------------------------------------- the screen


def comparison(runs: Comparison, names: tuple[str, str], width: int) -> RenderableType:
    """Return the screen of two runs, or of two parts of one; ``names``: what the first and the second are."""
    lines = [Text(f"First: {printable(names[0])}. Second: {printable(names[1])}.", style="bold", overflow="fold")]
    lines += [Text(line) for text in sentences(runs) for line in textwrap.wrap(text, width)]
    sides = Table(box=None, padding=(0, 2), pad_edge=False)
    for head in ("", "first", "second"):
        sides.add_column(head, justify="right" if head else "left")
    for row in zip(SIDE_HEADS, _side(runs.first), _side(runs.second), strict=True):
        sides.add_row(*row)
    ranks = plain_table("ranks", "experts", "first", "second", "second, placed by first", "second, placed best")
    second = runs.second.ranks
    for k, size in enumerate(second.size_K):
        means = (runs.first.ranks.busiest_KL[k], second.busiest_KL[k], runs.placed_KL[k], runs.best_KL[k])
        ranks.add_row(f"{size}", f"{runs.second.meta.experts // size}", *(f"{mean_known(of_L):.2f}" for of_L in means))
    about = (
        "Busiest rank over the mean one, mean over layers and the last rows of each; experts in the order of their "
        "numbers, then under the most even placement by the first's and by the second's own loads. Whole batch in one "
        "pass, one expert-parallel group: with more of either it is less even."
    )
    return Group(
        *lines, Text(""), sides, Text(""), ranks, *(Text(line, style="dim") for line in textwrap.wrap(about, width))
    )


def _side(facts: Inspection) -> tuple[str, ...]:
    """Return the cells of one run, in the order of `SIDE_HEADS`."""
    too_short = facts.rows * facts.meta.stride < StateRule().earliest_stable
    return (
        f"{facts.first_step:,} to {facts.step - 1:,}",
        "too short to say" if too_short and facts.state == "not settled" else facts.state,
        shown(mean_known(facts.busiest_L), ".2f"),
        shown(mean_known(facts.high_L), ".2f"),
        f"{int(facts.dead_LE.sum()):,}",
    )

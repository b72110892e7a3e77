"""The screen of two runs side by side, or of two parts of one.

Axis letters: L MoE layers, K expert-parallel sizes.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from moeload_bench.arrays import FloatArray
from moeload_bench.errors import printable
from moeload_bench.inspection.against import Comparison, sentences
from moeload_bench.inspection.facts import Inspection
from moeload_bench.results.console import plain_table
from moeload_bench.states.rule import StateRule
from moeload_bench.traces.means import mean_known
from moeload_bench.words import shown


def comparison(found: Comparison, names: tuple[str, str], width: int) -> RenderableType:
    """Return the screen of two runs, or of two parts of one; ``names``: what the first and the second are."""
    said = [Text(f"First: {printable(names[0])}. Second: {printable(names[1])}.", style="bold", overflow="fold")]
    said += [Text(line) for text in sentences(found) for line in textwrap.wrap(text, width)]
    sides = Table(box=None, padding=(0, 2), pad_edge=False)
    for head in ("", "first", "second"):
        sides.add_column(head, justify="right" if head else "left")
    for name, cells in _side_rows(found):
        sides.add_row(name, *cells)
    ranks = plain_table("ranks", "experts", "first", "second", "second, placed by first", "second, placed best")
    second = found.second.ranks
    for k, size in enumerate(second.size_K):
        means = (found.first.ranks.busiest_KL[k], second.busiest_KL[k], found.placed_KL[k], found.best_KL[k])
        ranks.add_row(f"{size}", f"{found.second.meta.experts // size}", *(f"{mean_known(of_L):.2f}" for of_L in means))
    about = (
        "Busiest rank over the mean one, mean over layers and the last rows of each; experts in the order of their "
        "numbers, then under the most even placement by the first's and by the second's own loads. Whole batch in one "
        "pass, one expert-parallel group: a lower bound otherwise."
    )
    return Group(
        *said, Text(""), sides, Text(""), ranks, *(Text(line, style="dim") for line in textwrap.wrap(about, width))
    )


def _side_rows(found: Comparison) -> Iterator[tuple[str, tuple[str, str]]]:
    """Yield rows of the table of both sides."""
    first, second = found.first, found.second
    yield "steps", (f"{first.first_step:,} to {first.step - 1:,}", f"{second.first_step:,} to {second.step - 1:,}")
    yield "state", (_state(first), _state(second))
    yield "busiest expert over the mean", _numbers(first.busiest_L, second.busiest_L)
    yield "noise alone", _numbers(first.high_L, second.high_L)
    yield "dead experts", (f"{int(first.dead_LE.sum()):,}", f"{int(second.dead_LE.sum()):,}")


def _state(found: Inspection) -> str:
    too_short = found.rows * found.meta.stride < StateRule().earliest_stable
    return "too short to say" if too_short and found.state == "not settled" else found.state


def _numbers(first_L: FloatArray, second_L: FloatArray) -> tuple[str, str]:
    return shown(mean_known(first_L), ".2f"), shown(mean_known(second_L), ".2f")

"""The generated parts of docs/reports/routing.md, from the catalogue alone."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, NamedTuple

from leaderboard.committed import ROOT
from leaderboard.pages.parts import Maker, Page, fill_parts
from leaderboard.routing.families import DRAWS, FAMILIES
from leaderboard.routing.measuring import (
    RANKS,
    Busiest,
    CaseLayer,
    Traffic,
    busiest_ranks,
    read_cases,
    traffic,
    worst_layers,
)
from moeload_bench import style
from moeload_bench.publishing.routing_cases import has_cases
from moeload_bench.results.render import markdown_table
from moeload_bench.words import listed

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PAGE, FIGURE = "docs/reports/routing.md", "docs/reports/routing.svg"
Traffics = Mapping[str, Mapping[str, Traffic]]
"""By case and kind."""
ROUNDING = 1e-9
"""By how much a ratio may be off."""
KINDS = ("recorded", "counts-only", "independent")
QUANTITIES = {
    "ranks_per_token": "ranks a token goes to",
    "largest_flow": "largest flow",
    "spread": "spread of sequences",
}
SIZES = (2, 4, 8, 16, 32, 64)
"""Expert-parallel sizes that are shown."""


def list_of_cases(layers: list[CaseLayer]) -> str:
    """Return the table of the cases."""
    rows = []
    for worst in worst_layers(layers):
        own = [layer for layer in layers if layer.case == worst.case]
        rows.append(
            (
                f"`{worst.case}`",
                worst.about,
                worst.mark,
                f"{worst.experts}, top-{worst.top_k}",
                f"{len(worst.topk_ids_TK):,}",
                ", ".join(f"{layer.imbalance:.2f}" for layer in own),
                max(layer.dead for layer in own),
                f"`{worst.run}`, step {worst.step:,}, layers {', '.join(layer.layer for layer in own)}",
            )
        )
    head = ("case", "what", "mark", "experts", "tokens", "busiest over mean, by layer", "dead, most", "from")
    about = (
        "A row is a case, a step of a run, with up to three of its layers: those with the least, the median and the "
        "largest imbalance. *Dead*: experts below a tenth of the even share, in the layer that has most of them; "
        "less is better."
    )
    return f"{about}\n\n{markdown_table(head, rows)}"


def ranks_table(ranks: list[Busiest]) -> str:
    """Return busiest ranks by expert-parallel size, recorded beside made up."""
    by_case: dict[str, dict[int, Busiest]] = {}
    for rank in ranks:
        by_case.setdefault(rank.case, {})[rank.size] = rank
    rows = [
        (f"`{case}`", *(_cell(sizes[size]) if size in sizes else "-" for size in SIZES))
        for case, sizes in by_case.items()
    ]
    about = (
        "A row is the worst layer of a case, a column an expert-parallel size. A cell: the busiest rank over the "
        f"mean one as recorded (in brackets {', '.join(FAMILIES)}: the mean of {DRAWS} draws); less is better. "
        "Bold: outside the middle 90 % of the draws of all three. Alone: equal in all."
    )
    return f"{about}\n\n{markdown_table(('case', *(f'EP {size}' for size in SIZES)), rows)}"


def _cell(rank: Busiest) -> str:
    made_up = ", ".join(f"{mean:.2f}" for mean, _, _ in rank.made_up.values())
    recorded = f"**{rank.recorded:.2f}**" if _outside(rank) else f"{rank.recorded:.2f}"
    same = {f"{mean:.2f}" for mean, _, _ in rank.made_up.values()} == {f"{rank.recorded:.2f}"}
    return recorded if same else f"{recorded} ({made_up})"


def _outside(rank: Busiest) -> bool:
    """Return whether what was recorded is outside the middle 90 % of the draws of every family."""
    return all(not low - ROUNDING <= rank.recorded <= high + ROUNDING for _, low, high in rank.made_up.values())


def several_on_a_rank(ranks: list[Busiest]) -> list[Busiest]:
    """Return the rows of RANKS ranks on which there is more than one expert: with one, the fit decides."""
    largest = {rank.case: rank.size for rank in ranks}
    return [rank for rank in ranks if rank.size == RANKS < largest[rank.case]]


def answer(ranks: list[Busiest], traffics: Traffics) -> str:
    """Return in three sentences where made-up routing misleads."""
    shown, parts = several_on_a_rank(ranks), []
    for name in FAMILIES:
        ratios = sorted((rank.made_up[name][0] - 1) / (rank.recorded - 1) for rank in shown)
        parts.append(f"{name} {median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})")
    outside = [f"`{rank.case}`" for rank in shown if _outside(rank)]
    return (
        f"Where the busiest expert is fitted, the excess of the busiest of {RANKS} ranks is, made up over recorded, "
        f"as the median and from least to most of {len(shown)} cases: {', '.join(parts)}. Most misleading are "
        f"{listed(outside) if outside else 'none'}, outside the middle 90 % of the draws of all three. Tokens dealt "
        "by the exact counts come near the recorded flows between ranks, but tokens of a sequence are more alike "
        f"than that: the spread of a sequence's counts is {_over_recorded(traffics, 'spread', 'counts-only', 0)} of "
        "the recorded one with the bursts of `export routing`, and "
        f"{_over_recorded(traffics, 'spread', 'independent', 0)} where each token is on its own (medians)."
    )


def _over_recorded(traffics: Traffics, name: str, kind: str, less: float) -> str:
    """Return a quantity's part above ``less``, made up over recorded, as the median over cases."""
    pairs = [(getattr(kinds[kind], name), getattr(kinds["recorded"], name)) for kinds in traffics.values()]
    ratios = [(made_up - less) / (recorded - less) for made_up, recorded in pairs if not math.isnan(recorded)]
    return f"{median(ratios):.2f}"


def traffic_table(traffics: Traffics) -> str:
    """Return what passes between ranks in recorded routing, beside what the same counts give with made-up tokens."""
    rows = [
        (f"`{case}`", *(_number(getattr(kinds[kind], name)) for name in QUANTITIES for kind in KINDS))
        for case, kinds in traffics.items()
    ]
    head = ("case", *(f"{words}, {kind}" for words in QUANTITIES.values() for kind in KINDS))
    about = (
        f"A row is the worst layer of a `recorded` case, its tokens in their order on {RANKS} source ranks, its "
        f"experts by number on {RANKS} expert-parallel ranks. *Largest flow*: the most tokens from one rank to "
        "another over the mean, a token sent once to a rank. *Spread*: the variance of the counts of a sequence over "
        "that of independent tokens, where its length is known. No direction is better. *counts-only*: as `export "
        "routing` makes it up; *independent*: the same counts, each token on its own."
    )
    medians = ", ".join(
        f"{words} {_over_recorded(traffics, name, 'counts-only', less)} (independent: "
        f"{_over_recorded(traffics, name, 'independent', less)})"
        for (name, words), less in zip(QUANTITIES.items(), (0, 1, 0), strict=True)
    )
    return (
        f"{about}\n\n{markdown_table(head, rows)}\n\nMade up over recorded, as medians over these cases, of the "
        f"largest flow its excess over the mean: {medians}."
    )


def _number(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.2f}"


def draw_ranks(ranks: list[Busiest]) -> Figure:
    """Draw a row for each case: the recorded busiest rank of RANKS, and the middle 90 % of each family's draws."""
    shown = several_on_a_rank(ranks)
    with style.style():
        figure, (ax,) = style.panels(1, height=0.6 + 0.28 * len(shown), columns=1)
        handles = []
        for place, (name, colour) in enumerate(zip(FAMILIES, style.PALETTE, strict=False)):
            y = [row + 0.2 * (place - 1) for row in range(len(shown))]
            ends = [rank.made_up[name][1:] for rank in shown]
            ax.hlines(y, [low for low, _ in ends], [high for _, high in ends], color=colour, linewidth=2)
            handles.append(style.legend_line(name, colour, linewidth=2))
        ax.plot([rank.recorded for rank in shown], range(len(shown)), "o", color="black", markersize=4)
        handles.append(style.legend_line("recorded", "black", "none", marker="o"))
        ax.set_yticks(range(len(shown)), [rank.case for rank in shown])
        ax.set_ylim(len(shown) - 0.5, -0.5)
        every = [value for rank in shown for value in (rank.recorded, *sum(rank.made_up.values(), ()))]
        style.log_axis(ax.xaxis, min(every), max(every))
        ax.set_xlabel(f"busiest of {RANKS} ranks over the mean one; less is more even")
        ax.grid(axis="x")
        figure.legend(handles=handles, loc="outside upper center", ncols=len(handles))
    return figure


class Found(NamedTuple):
    """What is measured on the catalogue."""

    layers: list[CaseLayer]
    ranks: list[Busiest]
    traffics: Traffics


@functools.cache
def measured(traces: Path) -> Found:
    """Return what the catalogue of a folder of traces gives: some seconds."""
    layers = read_cases(traces)
    recorded = worst_layers([layer for layer in layers if layer.mark == "recorded"])
    return Found(layers, list(busiest_ranks(worst_layers(layers))), {layer.case: traffic(layer) for layer in recorded})


def page_files(root: Path = ROOT) -> dict[Path, str]:
    """Return the page with its parts made again; nothing in a clone without the catalogue."""
    if not has_cases(root / "traces"):
        return {}
    numbers, page = measured(root / "traces"), root / PAGE
    makers: Mapping[str, Maker] = {
        "routing-answer": lambda: answer(numbers.ranks, numbers.traffics),
        "routing-cases": lambda: list_of_cases(numbers.layers),
        "routing-ranks": lambda: ranks_table(numbers.ranks),
        "routing-traffic": lambda: traffic_table(numbers.traffics),
    }
    return {page: fill_parts(page.read_text(encoding="utf-8"), makers)}


def draw(root: Path = ROOT) -> None:
    """Draw the page's figure, where the catalogue is."""
    if has_cases(root / "traces"):
        style.save_figure(draw_ranks(measured(root / "traces").ranks), root / FIGURE)


ROUTING = Page(PAGE, page_files, draw)

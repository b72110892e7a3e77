"""The generated parts of docs/reports/routing.md, from the catalogue alone."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from statistics import median

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
from moeload_bench.publishing.routing_cases import has_cases
from moeload_bench.results.markdown import markdown_table

PAGE = "docs/reports/routing.md"
KINDS = ("recorded", "counts-only", "independent")
SIZES = (2, 4, 8, 16, 32, 64)
"""Expert-parallel sizes that are shown."""


def list_of_cases(layers: list[CaseLayer]) -> str:
    """Return the table of the cases."""
    rows = []
    for worst in worst_layers(layers):
        mine = [layer for layer in layers if layer.case == worst.case]
        rows.append(
            (
                f"`{worst.case}`",
                worst.about,
                worst.mark,
                f"{worst.experts}, top-{worst.top_k}",
                f"{len(worst.topk_ids_TK):,}",
                ", ".join(f"{layer.imbalance:.2f}" for layer in mine),
                max(layer.dead for layer in mine),
                f"`{worst.run}`, step {worst.step:,}, layers {', '.join(layer.layer for layer in mine)}",
            )
        )
    head = ("case", "what", "mark", "experts", "tokens", "busiest over mean, by layer", "dead, most", "from")
    about = (
        "A row is a case, a step of a run, with up to three of its layers: those with the least, the median and the "
        "largest imbalance. *Dead*: experts below a tenth of the even share, in the layer that has most of them; "
        "less is better."
    )
    return f"{markdown_table(head, rows)}\n\n{about}"


def ranks_table(layers: list[CaseLayer]) -> str:
    """Return busiest ranks by expert-parallel size, recorded beside made up."""
    found = list(busiest_ranks(worst_layers(layers)))
    by_case: dict[str, dict[int, Busiest]] = {}
    for one in found:
        by_case.setdefault(one.case, {})[one.size] = one
    rows = [
        (f"`{case}`", *(_cell(sizes[size]) if size in sizes else "-" for size in SIZES))
        for case, sizes in by_case.items()
    ]
    about = (
        "A row is the worst layer of a case, a column an expert-parallel size. A cell: the busiest rank over the "
        f"mean one as recorded (in brackets {', '.join(FAMILIES)}: the mean of {DRAWS} draws); less is more even. "
        "Bold: outside the middle 90 % of the draws of all three."
    )
    table = markdown_table(("case", *(f"EP {size}" for size in SIZES)), rows)
    return f"{table}\n\n{about}\n\n{_misleading(found)}"


def _cell(one: Busiest) -> str:
    made_up = ", ".join(f"{mean:.2f}" for mean, _, _ in one.made_up.values())
    recorded = f"**{one.recorded:.2f}**" if _outside(one) else f"{one.recorded:.2f}"
    return f"{recorded} ({made_up})"


def _outside(one: Busiest) -> bool:
    """Return whether what was recorded is outside the middle 90 % of the draws of every family."""
    return all(not low <= one.recorded <= high for _, low, high in one.made_up.values())


def _misleading(found: list[Busiest]) -> str:
    """Return how far off made-up loads are, at the size of 8 ranks where there is more than one expert on a rank."""
    shown = [one for one in found if one.size == 8 and _larger_than(one, found)]
    parts = []
    for name in FAMILIES:
        ratios = sorted((one.made_up[name][0] - 1) / max(one.recorded - 1, 1e-9) for one in shown)
        parts.append(f"{name} {median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})")
    return (
        f"At EP 8, with several experts on a rank ({len(shown)} cases), the made-up excess of the busiest rank over "
        f"the mean one, divided by the recorded excess, is as the median and from least to most: {', '.join(parts)}. "
        f"In {sum(map(_outside, shown))} of these cases what was recorded is outside the middle 90 % of the draws of "
        "all three."
    )


def _larger_than(one: Busiest, found: list[Busiest]) -> bool:
    return any(other.case == one.case and other.size > one.size for other in found)


def traffic_table(layers: list[CaseLayer]) -> str:
    """Return what passes between ranks in recorded routing, beside what the same counts give when tokens are made "
    "up."""
    rows = []
    found = [(layer, traffic(layer)) for layer in worst_layers([one for one in layers if one.mark == "recorded"])]
    for layer, kinds in found:
        cells = [f"{getattr(kinds[kind], name):.2f}" for name in Traffic._fields for kind in KINDS]
        rows.append((f"`{layer.case}`", *cells))
    words = {
        "ranks_per_token": "ranks a token goes to",
        "largest_flow": "largest flow",
        "spread": "spread of sequences",
    }
    head = ("case", *(f"{words[name]}, {kind}" for name in Traffic._fields for kind in KINDS))
    about = (
        f"A row is the worst layer of a `recorded` case, its tokens in their order on {RANKS} source ranks, its "
        f"experts by number on {RANKS} expert-parallel ranks. *Largest flow*: the most tokens from one rank to "
        "another over the mean, a token sent once to a rank. *Spread*: the variance of the counts of a sequence over "
        "that of independent tokens. No direction is better. *counts-only*: as `export routing` makes it up; "
        "*independent*: the same counts, each token on its own."
    )
    return f"{markdown_table(head, rows)}\n\n{about}\n\n{_said(found)}"


def _said(found: list[tuple[CaseLayer, dict[str, Traffic]]]) -> str:
    """Return in sentences how far made-up tokens are from recorded ones, as medians over cases."""

    def over_recorded(name: str, kind: str, less: float) -> str:
        pairs = [(getattr(kinds[kind], name), getattr(kinds["recorded"], name)) for _, kinds in found]
        return f"{median((made_up - less) / (recorded - less) for made_up, recorded in pairs):.2f}"

    return (
        "Made up over recorded, as medians over these cases: the ranks that a token goes to "
        f"{over_recorded('ranks_per_token', 'counts-only', 0)} (independent: "
        f"{over_recorded('ranks_per_token', 'independent', 0)}), the excess of the largest flow over the mean "
        f"{over_recorded('largest_flow', 'counts-only', 1)} (independent: "
        f"{over_recorded('largest_flow', 'independent', 1)}), the spread of sequences "
        f"{over_recorded('spread', 'counts-only', 0)} (independent: {over_recorded('spread', 'independent', 0)})."
    )


def page_files(root: Path = ROOT) -> dict[Path, str]:
    """Return the page with its parts made again; nothing in a clone without the catalogue."""
    if not has_cases(root / "traces"):
        return {}
    layers, page = read_cases(root / "traces"), root / PAGE
    makers: Mapping[str, Maker] = {
        "routing-cases": lambda: list_of_cases(layers),
        "routing-ranks": lambda: ranks_table(layers),
        "routing-traffic": lambda: traffic_table(layers),
    }
    return {page: fill_parts(page.read_text(encoding="utf-8"), makers)}


ROUTING = Page(PAGE, page_files)

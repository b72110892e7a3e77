"""What docs/reports/regret.md says of forecasting and reacting, from leaderboard/reaction.json.

A share of the step time, `FRACTION`, waits for the most loaded device, as in docs/methods/placement.md; moving one
expert into a device costs so many per cent of a step. Means over runs, then recipes.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import cache

import numpy as np

from leaderboard.committed import ROOT
from leaderboard.pages.parts import Maker
from moeload_bench.placement.replan import CostModel
from moeload_bench.results.markdown import markdown_table
from moeload_bench.style import PALETTE, legend_above, log_axis, new_figure, save_figure, style

MEASURED = ROOT / "leaderboard" / "reaction.json"
FIGURE = ROOT / "docs" / "reports" / "reaction.svg"
FRACTION = CostModel(step_ms=1, expert_mb=0, bandwidth_gb_s=1).expert_fraction
COSTS = (0.0, 0.1, 1.0, 10.0, 100.0)
"""Per cent of a step that it costs to move one expert into a device: columns of the table."""
MAP_COSTS = (0.0, 0.01, 0.1, 1.0, 10.0, 100.0)
RANGE = (1e-2, 1e3)
FORECASTS = ("gated", "sw_avg")
"""What a kind of plan begins with that rests on a forecast; `true mean` and `static` are neither."""
REACTIONS = ("exact", "spill", "last steps")
ALIKE = 0.1
"""Points of the step time below which neither is called better."""


@cache
def _runs() -> Mapping[str, Mapping[str, tuple[float, float]]]:
    runs: dict[str, dict[str, tuple[float, float]]] = json.loads(MEASURED.read_text(encoding="utf-8"))["test"]
    return runs


@cache
def measured(late: int = 0) -> Mapping[str, Mapping[int, tuple[float, float, float]]]:
    """Kind of plan to k to (imbalance, per cent of the step saved before moving, most experts a device receives).

    ``late``: steps between a decision and the first step that it is for.
    """
    runs = _runs()
    found: dict[str, dict[int, tuple[float, float, float]]] = {}
    for name in next(iter(runs.values())):
        kind, _, when = name.partition("@")
        every, _, steps = when.partition("~")
        if int(steps or 0) != late and kind != "static":
            continue
        by_recipe: dict[str, list[tuple[float, float, float]]] = {}
        for run, kinds in runs.items():
            imbalance, moved = kinds[name]
            gain = 100 * FRACTION * (1 - imbalance / kinds["static"][0])
            by_recipe.setdefault(run.split("/")[0], []).append((imbalance, gain, moved))
        mean = np.mean([np.mean(values, axis=0) for values in by_recipe.values()], axis=0)
        found.setdefault(kind, {})[int(every or 0)] = (float(mean[0]), float(mean[1]), float(mean[2]))
    return found


def saved(kind: str, every: int, cost: float, late: int = 0) -> float:
    """Per cent of the step time saved against the static layout, moving charged."""
    _, gain, moved = measured(late)[kind][every]
    return gain - (cost * moved / every if every else 0.0)


def best(kind: str, cost: float, late: int = 0) -> tuple[float, int]:
    """Return the most that a kind saves at a cost of moving, and with which k; 0 where the static layout saves more."""
    return max((0.0, 0), *((saved(kind, every, cost, late), every) for every in measured(late)[kind]))


def best_of(kinds: tuple[str, ...], cost: float, late: int) -> tuple[float, str]:
    """Return the most that any kind saves whose name begins like one of these, and its name with k; 0 for static."""
    own = [kind for kind in measured(late) if kind.startswith(kinds)]
    gain, every, kind = max((*best(kind, cost, late), kind) for kind in own)
    return gain, f"{kind}, k = {every:,}" if every else "static"


def lateness() -> list[int]:
    """Return the latencies that were measured, in steps."""
    return sorted({int(name.partition("~")[2] or 0) for name in next(iter(_runs().values()))})


def map_table() -> str:
    """Return what the best reacting policy and the best forecasting one save, by latency and cost of moving."""
    rows = []
    for late in lateness():
        for side, kinds in (("react", REACTIONS), ("forecast", FORECASTS)):
            others = FORECASTS if kinds is REACTIONS else REACTIONS
            cells = []
            for cost in MAP_COSTS:
                (gain, name), (other, _) = best_of(kinds, cost, late), best_of(others, cost, late)
                text = f"{gain:.2f} ({name})" if gain else "0 (static)"
                cells.append(f"**{text}**" if gain > other + ALIKE else text)
            rows.append((late, side, *cells))
    return markdown_table(("steps late", "", *(f"moving {cost:g} %" for cost in MAP_COSTS)), rows)


def map_words() -> str:
    """Return for which latency and cost of moving either is better, in a sentence for each latency."""
    lines = []
    for late in lateness():
        gaps = {cost: best_of(FORECASTS, cost, late)[0] - best_of(REACTIONS, cost, late)[0] for cost in MAP_COSTS}
        said = {
            "forecasting saves more": [cost for cost, gap in gaps.items() if gap > ALIKE],
            "reacting saves more": [cost for cost, gap in gaps.items() if gap < -ALIKE],
            f"they are within {ALIKE:g} points": [cost for cost, gap in gaps.items() if abs(gap) <= ALIKE],
        }
        parts = [f"{words} at {', '.join(f'{cost:g} %' for cost in costs)}" for words, costs in said.items() if costs]
        lines.append(f"- {late} step{'s' if late != 1 else ''} late: {'; '.join(parts)}.")
    return "\n".join(lines)


def reaction_table() -> str:
    """Return every kind of plan: what it saves at several costs of moving."""
    rows = []
    for kind, by_every in sorted(measured().items(), key=lambda item: -max(gain for _, gain, _ in item[1].values())):
        for every, (imbalance, _, moved) in sorted(by_every.items()):
            cells = [f"{saved(kind, every, cost):+.2f}" for cost in COSTS]
            rows.append((kind, every or "-", f"{imbalance:.3f}", f"{moved:.1f}", *cells))
    heads = ("plans from", "every k steps", "imbalance", "most experts into a device")
    return markdown_table((*heads, *(f"moving {c:g} %" for c in COSTS)), rows)


def reaction_words() -> str:
    """Return what forecasting is worth beside exact reaction, and up to which cost of moving that is the better of the
    two.
    """
    forecast = next(kind for kind in measured() if "covariance" in kind)
    exact, own, plain, mean = (best(kind, 0.0)[0] for kind in ("exact", forecast, "gated", "sw_avg"))
    even = {kind: _cheaper(kind) for kind in (forecast, "sw_avg")}
    worth = _cost_where(lambda cost: best(forecast, cost)[0] <= 0)
    return (
        f"Where moving is free, a plan for each step from its exact loads saves {exact:.1f} % of the step time; plans "
        f"from forecasts, made every 10 steps, save {mean:.1f} % (`sw_avg`), {plain:.1f} % (`gated`) and {own:.1f} % "
        f"(`{forecast}`), which is {100 * own / exact:.0f} % of what exact reaction can. But exact reaction moves "
        f"{measured()['exact'][1][2]:.0f} experts into the busiest device in every step: it is the better of the two "
        f"only while moving an expert costs less than {even[forecast]:.2g} % of a step (with `sw_avg` as the "
        f"alternative {even['sw_avg']:.2g} %). Beyond that a forecast is worth more, up to {worth:,.0f} % of a step "
        "per expert, where re-planning every 1,000 steps pays no longer."
    )


def _cheaper(kind: str) -> float:
    """Return the cost of moving from which plans from forecasts save as much as exact reaction."""
    return _cost_where(lambda cost: best(kind, cost)[0] >= best("exact", cost)[0])


def _cost_where(holds: Callable[[float], bool]) -> float:
    """Return the least cost on a fine grid at which something holds; the largest where it never does."""
    return next((cost for cost in np.geomspace(1e-4, 1e4, 1601).tolist() if holds(cost)), 1e4)


def draw_reaction() -> None:
    """Draw what each kind saves with its best k, against the cost of moving."""
    cost_N = np.geomspace(*RANGE, 200)
    with style():
        figure = new_figure(2.8)
        axes = figure.add_subplot()
        kinds = [kind for kind in measured() if kind != "static"]
        for colour, kind in zip(PALETTE, kinds, strict=False):
            dashes = "--" if kind in ("exact", "true mean") else "-"
            axes.plot(
                cost_N, [best(kind, cost)[0] for cost in cost_N.tolist()], color=colour, linestyle=dashes, label=kind
            )
        log_axis(axes.xaxis, *RANGE)
        axes.set_xlabel("cost of moving one expert into a device [% of a step]")
        axes.set_ylabel("saved [% of the step time]")
        axes.grid()
        legend_above(figure, "Suite v1, shape quarter: saved against the static layout, each with its best k",
                     axes.get_legend_handles_labels()[0], columns=3)  # fmt: skip
        save_figure(figure, FIGURE)


PARTS: Mapping[str, Maker] = {
    "reaction": lambda: f"{reaction_words()}\n\n{reaction_table()}",
    "react-or-forecast": lambda: f"{map_words()}\n\n{map_table()}",
}

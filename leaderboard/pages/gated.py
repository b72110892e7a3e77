"""The tables of docs/reports/gated.md: what `gated` does on recipes that it has not seen.

Made from leaderboard/left_out.json, which `python -m leaderboard studies left-out` measures.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy.stats import sem

from leaderboard.committed import ROOT
from leaderboard.pages.openings import Dot, draw_dots
from leaderboard.pages.parts import parts_from
from leaderboard.studies.clusters import CLUSTERS, OUT, SUITE
from moeload_bench.results.markdown import markdown_table as table
from moeload_bench.results.statistics import Interval, Tasks, interval, t_quantile
from moeload_bench.results.tables import horizon_heads, span
from moeload_bench.states.rule import LABELS
from moeload_bench.suites.suite import load_suite

LOSS_FREE = CLUSTERS[1]
SEEN: tuple[tuple[str, str, Sequence[str]], ...] = (
    ("gated", "every step", ()),
    ("gated", "every step, without the two loss-free recipes", LOSS_FREE),
    ("sampled", "every tenth step", ()),
    ("late", "from mid-run on", ()),
    ("late.untaught", "from mid-run on, learned without late twins", ()),
)
"""Experiment, which rows of the run were seen, recipes that the row leaves out."""
MEANING = {
    "control.tuned": "`sw_avg.tuned`: one window per horizon and state, chosen on the other clusters",
    "control.constant": "the same network without any context: constant weights",
    "control.swapped": "the fitted network, shown the context of another run in the same state",
    "yardstick.window": "*yardstick*: the best fixed window of each run, state and horizon in hindsight; no forecaster",
    "without.back": "without errors of back-tests as context",
    "without.layers": "without means over layers as context",
    "without.momentum": "without the direction and the decay of moves as context",
    "without.controlled": "without twins under a simulated loss-free controller",
    "without.sampled": "without sampled twins",
    "learn.2": "learned from 2 clusters",
    "learn.4": "learned from 4 clusters",
}

NOMINAL = 0.8
"""What lies between the outer quantiles of the suite, 0.1 and 0.9."""

Record = Mapping[str, Any]


def measured() -> Mapping[str, Record]:
    """Return what was measured, by experiment."""
    found: Mapping[str, Record] = json.loads(OUT.read_text(encoding="utf-8"))
    return found


def by_recipe(record: Record, state: str, left: Sequence[str] = ()) -> dict[str, float]:
    """Return the mean log ratio to the reference over tasks and horizons, without the recipes ``left`` out."""
    ratios = record[state]["log_ratio"]
    return {recipe: float(np.mean(values)) for recipe, values in ratios.items() if recipe not in left}


def skill(log_ratio: Sequence[float]) -> float:
    return float(1 - np.exp(np.mean(log_ratio)))


def bounds(log_ratio: Mapping[str, float], clusters: bool = False) -> str:
    """Format a 95 % t interval on skill, over recipes or over means of clusters."""
    units = dict(log_ratio)
    if clusters:
        present = [[units[recipe] for recipe in cluster if recipe in units] for cluster in CLUSTERS]
        units = {str(n): float(np.mean(values)) for n, values in enumerate(present) if values}
    found = new_recipe(units)
    return "-" if found is None else span(found)


def new_recipe(log_ratio: Mapping[str, float]) -> Interval | None:
    """Return the interval on skill for a new recipe, or for whatever else the units are."""
    return interval(np.array(list(log_ratio.values())), Tasks(list(log_ratio), list(log_ratio)), "a new recipe")


def headline(known: Mapping[str, Record]) -> str:
    """Return skill and error by horizon, for runs that are seen in several ways."""
    horizons = load_suite(SUITE).horizons
    rows = []
    for name, what, left in SEEN:
        for state in LABELS if name in known else ():
            own = by_recipe(known[name], state, left)
            ratio, found = known[name][state]["log_ratio"], known[name][state]["window_tv"]
            by_horizon = 1 - np.exp(np.mean([ratio[recipe] for recipe in own], axis=0))
            error = np.mean([found[recipe] for recipe in own], axis=0)
            cells = [f"{s:+.2f} ({e:.3f})" for s, e in zip(by_horizon, error, strict=True)]
            least = max(own, key=lambda recipe: own[recipe])
            worst = f"{skill([own[least]]):+.2f} (`{least}`)"
            rows.append(
                (what, state, f"{skill(list(own.values())):+.3f}", bounds(own), bounds(own, True), worst, *cells)
            )
    return table(
        ("rows seen", "state", "skill", "new recipe", "new cluster", "least recipe", *horizon_heads(horizons)), rows
    )


def quantiles(known: Mapping[str, Record]) -> str:
    """Return coverage over recipes, the worst of them, and `wql`, of `gated` and of `sw_avg_conformal`."""
    rows = []
    for state in LABELS:
        record = known["quantiles"][state]
        gain = {recipe: float(np.mean(log_K)) for recipe, log_K in record["log_ratio"].items()}
        for name in ("gated", "sw_avg_conformal"):
            by = {recipe: float(np.mean(values)) for recipe, values in record["coverage"][name].items()}
            worst = min(by, key=lambda recipe: -abs(by[recipe] - NOMINAL))
            mean, half = np.mean(list(by.values())), t_quantile(len(by) - 1, 0.95) * sem(list(by.values()))
            wql_K = np.mean(list(record["wql"][name].values()), axis=0)
            better = f"{skill(list(gain.values())):+.3f} {bounds(gain)}" if name == "gated" else ""
            rows.append((f"`{name}`", state, f"{mean:.3f} [{mean - half:.2f}, {mean + half:.2f}]",
                         f"{by[worst]:.2f} (`{worst}`)", *(f"{v:.4f}" for v in wql_K), better))  # fmt: skip
    horizons = load_suite(SUITE).horizons
    head = ("", "state", f"coverage of {NOMINAL:.1f}", "worst recipe", *(f"wql, h = {h:,}" for h in horizons))
    return table((*head, "less wql than `sw_avg_conformal`"), rows)


def recipes(known: Mapping[str, Record]) -> str:
    """Return skill by left-out recipe."""
    each = {state: by_recipe(known["gated"], state) for state in LABELS}
    rows = [
        (f"`{recipe}`", *(f"{skill([each[s][recipe]]):+.2f}" if recipe in each[s] else "-" for s in LABELS))
        for cluster in CLUSTERS
        for recipe in cluster
    ]
    return table(("left out (with its cluster)", *LABELS), rows)


def _beside(known: Mapping[str, Record], *kinds: str) -> str:
    """Return skill of each experiment of these kinds, and what `gated` gains over it, paired by recipe."""
    rows = []
    for name in (name for name in MEANING if name.split(".")[0] in kinds and name in known):
        cells: list[str] = []
        for state in LABELS:
            full, other = by_recipe(known["gated"], state), by_recipe(known[name], state)
            gain = {recipe: full[recipe] - other[recipe] for recipe in full}
            cells += [f"{skill(list(other.values())):+.3f}", f"{skill(list(gain.values())):+.3f} {bounds(gain)}"]
        rows.append((MEANING[name], *cells))
    head = ("", *(cell for state in LABELS for cell in (state, f"gain of `gated`, {state}")))
    return table(head, rows)


def controls(known: Mapping[str, Record]) -> str:
    """Return what has to lose."""
    return _beside(known, "control", "yardstick")


def ablations(known: Mapping[str, Record]) -> str:
    """Return what each part buys."""
    return _beside(known, "without", "learn")


def dots_of(known: Mapping[str, Record]) -> dict[str, list[Dot]]:
    """Return by state the skill for each way in which runs are seen, with its interval for a new recipe."""
    found: dict[str, list[Dot]] = {}
    for name, what, left in SEEN:
        for state in LABELS if name in known else ():
            own = by_recipe(known[name], state, left)
            found.setdefault(state, []).append(Dot(what, "gated", skill(list(own.values())), new_recipe(own)))
    return found


def answer(known: Mapping[str, Record]) -> str:
    """Return what the forecaster is worth on recipes that it has not seen, in sentences."""
    by_state = {state: {dot.label: dot.skill for dot in dots} for state, dots in dots_of(known).items()}
    words = {
        what: " and ".join(f"{100 * skills[what]:.0f} % ({state})" for state, skills in by_state.items())
        for _, what, _ in SEEN
        if all(what in skills for skills in by_state.values())
    }
    return (
        f"On recipes that its network has not seen, `gated` errs less than the moving average by {words[SEEN[0][1]]}. "
        f"Without the two loss-free recipes, where it gains most, by {words[SEEN[1][1]]}. Shown every tenth step only, "
        f"by {words[SEEN[2][1]]}."
    )


def draw() -> None:
    """Draw the skill for each way in which runs are seen."""
    draw_dots(dots_of(measured()), ROOT / "docs" / "reports" / "gated.svg")


PARTS = parts_from(
    measured, answer=answer, headline=headline, quantiles=quantiles, recipes=recipes, controls=controls,
    ablations=ablations,
)  # fmt: skip

"""What docs/methods/placement.md says in numbers, and its figure.

The walk-through comes from policies replayed on two bundled traces, the table of peers from `leaderboard.pages.peers`.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping

from leaderboard.committed import ROOT
from leaderboard.pages.parts import Maker
from leaderboard.pages.peers import balance_table
from moeload_bench.evaluation.replanning import Comparison, compare_policies
from moeload_bench.placement.plans import ClusterShape
from moeload_bench.placement.replan import CostModel, Policy, PolicyRun
from moeload_bench.plots.replanning import draw_policies
from moeload_bench.results.markdown import markdown_table
from moeload_bench.results.tables import three_digits
from moeload_bench.style import save_figure
from moeload_bench.traces.store import load_trace

COST = CostModel(step_ms=100, expert_mb=200, bandwidth_gb_s=25)
WALK = {
    "qwen3moe-tiny-8e-aux0/test/seed1": ClusterShape("plan", 2, 10),
    "qwen3moe-tiny-8e/test/seed1": ClusterShape("plan", 4, 12),
}
FORECASTER = "sw_avg"
SHOWN: tuple[tuple[Policy, int], ...] = (
    ("every", 10),
    ("every", 50),
    ("every", 500),
    ("stable_only", 50),
    ("if_pays", 50),
)
"""Policies and k beside the best one."""


@functools.cache
def comparison(trace: str) -> Comparison:
    """Return all policies on a trace of the walk-through."""
    return compare_policies(load_trace(trace), FORECASTER, WALK[trace], COST, level="none")


def walk_table() -> str:
    """Return what the walk-through found, one column per trace."""
    found = [walk_of(comparison(trace)) for trace in WALK]
    rows = [(name, *(one[name] for one in found)) for name in found[0]]
    return markdown_table(("", *(f"`{trace}`" for trace in WALK)), rows)


def walk_of(one: Comparison) -> dict[str, str]:
    """Return what was found on a trace, by what it is."""
    best, shape = one.best, one.simulation.shape
    oracle = max((run for run in one.runs if run.policy == "oracle"), key=lambda run: run.saved_percent)
    return {
        "devices, slots": f"{shape.devices}, {shape.slots}",
        "imbalance of the static layout": f"{one.simulation.static_imbalance:.3f}",
        "best policy": f"`{best.policy}`, k = {best.every:,}",
        "saved by it, % of the step time": _saved(best),
        "its break-even, steps": three_digits(best.break_even_steps),
        "its break-even, MB per expert": _thousands(best.break_even_mb),
        "moved by it, MB": _thousands(best.moved_mb),
        "moved by `every` at the same k, MB": _thousands(_run(one, "every", best.every).moved_mb),
        **{f"saved by `{p}`, k = {k:,}": _saved(_run(one, p, k)) for p, k in SHOWN},
        "saved by the best `oracle`": _saved(oracle),
    }


def _run(one: Comparison, policy: Policy, every: int) -> PolicyRun:
    return next(run for run in one.runs if (run.policy, run.every) == (policy, every))


def _saved(run: PolicyRun) -> str:
    """Per cent saved, and how they come about."""
    moving = 100 * run.migration_ms / COST.step_ms
    return f"{run.saved_percent:.2f} ({run.gain_percent:.2f} less {moving:.2f} for moving)"


def _thousands(value: float | None) -> str:
    return "-" if value is None else f"{value:,.0f}"


PARTS: Mapping[str, Maker] = {"peers": balance_table, "walk": walk_table}


def draw_walk() -> None:
    """Draw the figure of docs/methods/placement.md."""
    trace = next(iter(WALK))
    save_figure(draw_policies(comparison(trace), load_trace(trace)), ROOT / "docs" / "methods" / "figures" / "plan.svg")

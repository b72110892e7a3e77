"""Fill what methods/placement.md and reports/regret.md in docs/ say in numbers, and draw their figures.

    python -m leaderboard.pages.decisions [--check] [PART ...]

A part stands between `<!-- made by leaderboard/pages/decisions.py: PART -->` and `<!-- end -->`. What plans tell apart
and the table of disagreements come from the committed results, the walk-through from policies simulated on two bundled
traces, the table of peers from `benchmarks/placement.py`. With --check nothing is written, and the exit status is 1
when a page would change; the figures are not compared, since another version of matplotlib draws other bytes.
"""

from __future__ import annotations

import argparse
import functools
import re
import sys
from collections.abc import Callable

from benchmarks.placement import balance_table
from leaderboard.committed import ROOT
from leaderboard.pages.make import results_of
from leaderboard.pages.results import separated
from leaderboard.pages.separation import PRIMARY, cells
from moeload_bench.errors import MoeloadError
from moeload_bench.evaluation.replanning import Comparison, compare_policies
from moeload_bench.placement.cost import HEADLINE
from moeload_bench.placement.plans import ClusterShape
from moeload_bench.placement.replan import CostModel, Policy, PolicyRun
from moeload_bench.plots.replanning import draw_policies
from moeload_bench.plots.results import draw_regret
from moeload_bench.plots.style import save_figure
from moeload_bench.results.disagreement import disagreements
from moeload_bench.results.render import markdown_table, three_digits
from moeload_bench.traces.store import load_trace

PART = re.compile(r"(<!-- made by leaderboard/pages/decisions.py: (?P<name>\w+) -->\n).*?(<!-- end -->)", re.DOTALL)
FIGURES = {
    "walk": ROOT / "docs" / "methods" / "figures" / "plan.svg",
    "regret": ROOT / "docs" / "reports" / "regret.svg",
}
PAGES = [ROOT / "docs" / "methods" / "placement.md", ROOT / "docs" / "reports" / "regret.md"]
SUITE = "v1"
MOST = 8
"""Disagreements that are listed."""
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


def separation() -> str:
    """Which forecasters the error tells from the reference, and which the plans made from them."""
    results = results_of(SUITE)
    return "\n\n".join(separated(results, cells(results, PRIMARY))) + "\n"


def regret_table() -> str:
    """Pairs of forecasters that error and decision order apart, the largest gap first."""
    results = results_of(SUITE)
    apart = disagreements(results)
    heads = ("state", "horizon", "lower window_tv", f"lower regret@{HEADLINE}", "window_tv ratio", "regret gap, points")
    rows = [
        (d.state, f"{d.horizon:,}", f"`{d.by_error}`", f"`{d.by_regret}`", f"{d.error_ratio:.2f}",
         f"{100 * d.regret_gap:.2f}")
        for d in apart[:MOST]
    ]  # fmt: skip
    return (
        f"Suite `{SUITE}`, {len(results)} forecasters; {len(apart)} ordered pairs disagree, the "
        f"{min(MOST, len(apart))} largest:\n\n{markdown_table(heads, rows)}"
    )


@functools.cache
def comparison(trace: str) -> Comparison:
    """All policies on a trace of the walk-through."""
    return compare_policies(load_trace(trace), FORECASTER, WALK[trace], COST, level="none")


def walk_table() -> str:
    """What the walk-through found, one column per trace."""
    found = [comparison(trace) for trace in WALK]
    lines: dict[str, Callable[[Comparison], str]] = {
        "devices, slots": lambda one: f"{one.simulation.shape.devices}, {one.simulation.shape.slots}",
        "imbalance of the static layout": lambda one: f"{one.simulation.static_imbalance:.3f}",
        "best policy": lambda one: f"`{one.best.policy}`, k = {one.best.every:,}",
        "saved by it, % of the step time": lambda one: _saved(one.best),
        "its break-even, steps": lambda one: three_digits(one.best.break_even_steps),
        "its break-even, MB per expert": lambda one: _thousands(one.best.break_even_mb),
        "moved by it, MB": lambda one: _thousands(one.best.moved_mb),
        "moved by `every` at the same k, MB": lambda one: _thousands(_run(one, "every", one.best.every).moved_mb),
        **{
            f"saved by `{policy}`, k = {k:,}": functools.partial(_saved_at, policy=policy, every=k)
            for policy, k in SHOWN
        },
        "saved by the best `oracle`": lambda one: _saved(
            max((run for run in one.runs if run.policy == "oracle"), key=lambda run: run.saved_percent)
        ),
    }
    rows = [(name, *(make(one) for one in found)) for name, make in lines.items()]
    return markdown_table(("", *(f"`{one.trace}`" for one in found)), rows)


def _run(one: Comparison, policy: Policy, every: int) -> PolicyRun:
    return next(run for run in one.runs if (run.policy, run.every) == (policy, every))


def _saved_at(one: Comparison, policy: Policy, every: int) -> str:
    return _saved(_run(one, policy, every))


def _saved(run: PolicyRun) -> str:
    """Per cent saved, and how they come about."""
    moving = 100 * run.migration_ms / COST.step_ms
    return f"{run.saved_percent:.2f} ({run.gain_percent:.2f} less {moving:.2f} for moving)"


def _thousands(value: float | None) -> str:
    return "-" if value is None else f"{value:,.0f}"


PARTS: dict[str, Callable[[], str]] = {
    "peers": balance_table,
    "walk": walk_table,
    "separation": separation,
    "regret": regret_table,
}


def draw(part: str) -> None:
    """The figure beside a part, if there is one."""
    if part == "walk":
        trace = next(iter(WALK))
        save_figure(draw_policies(comparison(trace), load_trace(trace)), FIGURES["walk"])
    if part == "regret":
        save_figure(draw_regret(results_of(SUITE)), FIGURES["regret"])


def filled(text: str, parts: list[str]) -> str:
    """The text with these parts made anew."""

    def made(match: re.Match[str]) -> str:
        return f"{match[1]}{PARTS[match['name']]()}\n{match[3]}" if match["name"] in parts else match[0]

    return PART.sub(made, text)


def main() -> int:
    """Write the pages and figures, or compare the pages."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"{', '.join(PARTS)}; all by default")
    parser.add_argument("--check", action="store_true", help="write nothing; exit status 1 when a page would change")
    args = parser.parse_args()
    unknown = [part for part in args.parts if part not in PARTS]
    if unknown:
        parser.error(f"unknown part {unknown[0]!r}; there is: {', '.join(PARTS)}")
    parts = args.parts or list(PARTS)
    stale = []
    for path in PAGES:
        old = path.read_text()
        new = filled(old, parts)
        if new != old:
            stale.append(path)
            if not args.check:
                path.write_text(new)
    for path in stale:
        print(f"{'stale' if args.check else 'written'}: {path.relative_to(ROOT)}")
    if not args.check:
        for part in parts:
            draw(part)
    return 1 if args.check and stale else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except MoeloadError as error:
        sys.exit(str(error))

"""What docs/methods/placement.md and docs/reports/regret.md say in numbers, and their figures.

What plans tell apart and the table of disagreements come from the committed results, the walk-through from policies
simulated on two bundled traces, the table of peers from `leaderboard.pages.peers`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from leaderboard.committed import ROOT
from leaderboard.grouped import grouped
from leaderboard.pages import reaction
from leaderboard.pages.disagreement import disagreements, draw_regret, error_and_regret
from leaderboard.pages.parts import Maker
from leaderboard.pages.peers import balance_table
from leaderboard.pages.results import disagreement_table, results_of, separated
from leaderboard.pages.separation import compared_cells
from moeload_bench.placement.cost import HEADLINE
from moeload_bench.results.record import Result
from moeload_bench.scoring.catalogue import PRIMARY
from moeload_bench.style import save_figure
from moeload_bench.suites.suite import STATES

SUITE = "v1"
MOST = 8
"""Disagreements that are listed."""


def answer() -> str:
    """Return how often error and decision disagree, and what plans tell apart, in each state."""
    results = results_of(SUITE)
    error, _ = error_and_regret(results, HEADLINE)
    apart, states = disagreements(results), [state for state in error.states if state in STATES]
    compared = len(states) * len(error.horizons) * len(results) * (len(results) - 1) // 2
    moving = sum(one.state == "transient" for one in apart)
    errors, plans = (_apart(results, metric) for metric in (PRIMARY, f"imbalance@{HEADLINE}"))
    told = " and ".join(f"{plans[state]} (errors {errors[state]}) in the {state} state" for state in plans)
    return (
        f"In {len(apart)} of {compared:,} comparisons of two forecasters, by state and horizon, decision and error "
        f"disagree ({len(apart) / compared:.1%}), {moving} of them in the transient state. Over {len(error.horizons)} "
        f"horizons and {len(results) - 1} forecasters, plans tell {told} from the reference. Where plans tell few "
        "apart, the choice of a forecaster decides little."
    )


def _apart(results: Sequence[Result], metric: str) -> dict[str, int]:
    """Return by state how many forecasters differ from the reference, over all horizons."""
    by_state = grouped(compared_cells(results, metric), lambda cell: cell.state)
    return {state: sum(len(cell.apart) for cell in cells) for state, cells in by_state.items()}


def separation() -> str:
    """Return which forecasters the error tells from the reference, and which the plans made from them."""
    results = results_of(SUITE)
    return "\n\n".join(separated(results, compared_cells(results, PRIMARY))) + "\n"


def regret_table() -> str:
    """Pairs of forecasters that error and decision order apart, the largest gap first."""
    results = results_of(SUITE)
    apart = disagreements(results)
    return (
        f"Suite `{SUITE}`, {len(results)} forecasters; {len(apart)} ordered pairs disagree, the "
        f"{min(MOST, len(apart))} largest:\n\n{disagreement_table(apart[:MOST], f'regret@{HEADLINE}', 'horizon')}"
    )


PLACEMENT_PARTS: Mapping[str, Maker] = {"peers": balance_table}
REGRET_PARTS: Mapping[str, Maker] = {
    "answer": answer, "separation": separation, "regret": regret_table, **reaction.PARTS,
}  # fmt: skip


def draw_regret_page() -> None:
    """Draw the figures of docs/reports/regret.md."""
    reaction.draw_reaction()
    save_figure(draw_regret(results_of(SUITE)), ROOT / "docs" / "reports" / "regret.svg")

"""How reports open: their answer in a few sentences, and one figure of dots and intervals, from the same results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from leaderboard.committed import ROOT
from leaderboard.pages.drawn_claims import Drawn
from leaderboard.pages.parts import Maker
from leaderboard.pages.results import largest_suite, results_by_size
from leaderboard.season_tools.scored import ScoredSeason, scored_seasons
from leaderboard.season_tools.sets import by_set
from moeload_bench.errors import counted
from moeload_bench.results.grid import ResultGrid, Row, known_grid
from moeload_bench.results.record import Result
from moeload_bench.results.statistics import Interval
from moeload_bench.results.strata import with_size
from moeload_bench.scoring.catalogue import PRIMARY
from moeload_bench.states.rule import LABELS
from moeload_bench.style import GREY, forecaster_looks, legend_line, new_figure, save_figure, style

REPORTS = ROOT / "docs" / "reports"
LEAST = -1.0
"""Skill below this is drawn at the edge: one bad forecaster must not squeeze all others."""


class Dot(NamedTuple):
    """A line of the figure: whose skill, how it is called there, and its intervals, where there are some."""

    label: str
    forecaster: str
    skill: float
    new_recipe: Interval | None = None
    new_seeds: Interval | None = None


def leaders(grid: ResultGrid) -> list[Row]:
    """Return the row of the best in each state."""
    return [grid.of_state(state)[0] for state in LABELS if state in grid.states]


def best_words(grid: ResultGrid) -> str:
    """Say who is best in each state, and by how much of the reference's error."""
    return " and ".join(
        f"`{first.forecaster}` errs {100 * (first.skill or 0.0):.0f} % less than `{grid.scores.reference}` in the "
        f"{first.state} state"
        for first in leaders(grid)
    )


def _runs(ids: Sequence[str]) -> str:
    return f"{counted(len(ids), 'run')} of {counted(len({name.split('/')[0] for name in ids}), 'recipe')}"


def season_answer(season: ScoredSeason) -> str:
    """Return what a season's candidate gains on drawn recipes."""
    return f"Season `{season.name}`. {Drawn(season).answer}"


def results_answer() -> str:
    """Return who is best on the newest season and on the largest public suite."""
    suite, seasons = largest_suite(), scored_seasons()
    public = [
        f"{with_size(f'On the public suite `{suite.name}`', size)} "
        f"({_runs([run.trace for run in results[0].runs])}), {best_words(known_grid(results, PRIMARY))}."
        for size, results in results_by_size(suite.name).items()
    ]
    return " ".join([*map(season_answer, seasons[:1]), *public])


def draw_results() -> None:
    """Draw the newest season's standings."""
    draw_dots(season_dots(scored_seasons()[0]), REPORTS / "results.svg")


def season_dots(season: ScoredSeason) -> dict[str, list[Dot]]:
    """Return a season's standings by state, those of each set of drawn recipes apart."""
    return {
        f"set {name}, {state}" if name else state: dots
        for name, part in by_set(season).items()
        for state, dots in state_dots(part.results).items()
    }


def state_dots(results: Sequence[Result]) -> dict[str, list[Dot]]:
    """Return by state every forecaster's skill with both intervals, the best first."""
    grid = known_grid(results, PRIMARY)
    return {
        state: [Dot(row.forecaster, row.forecaster, row.skill, row.new_recipe, row.new_seeds)
                for row in grid.of_state(state) if row.skill is not None]
        for state in LABELS if state in grid.states
    }  # fmt: skip


def draw_dots(panels: Mapping[str, Sequence[Dot]], path: Path) -> None:
    """Draw a panel for each title, two beside each other, a line for each dot: skill, with the interval for a new
    recipe thin, that for new seeds thick; further right is better.
    """
    columns = min(2, len(panels))
    rows = -(-len(panels) // columns)
    most = max(map(len, panels.values()))
    looks = forecaster_looks(list(dict.fromkeys(dot.forecaster for dots in panels.values() for dot in dots)))
    ends = [end for dots in panels.values() for dot in dots for found in (dot.new_recipe, dot.new_seeds) if found
            for end in (found.low, found.high)]  # fmt: skip
    known = [*ends, *(dot.skill for dots in panels.values() for dot in dots)]
    low, high = max(LEAST, min(known)), max(0.05, *known)
    with style():
        figure = new_figure(0.5 + rows * (0.4 + 0.15 * most))
        axes = figure.subplots(rows, columns, squeeze=False).flat
        for ax in axes[len(panels) :]:
            ax.remove()
        for ax, (title, dots) in zip(axes[: len(panels)], panels.items(), strict=True):
            ax.axvline(0, color=GREY, linewidth=0.8)
            for place, dot in enumerate(dots):
                for found, width in ((dot.new_recipe, 0.8), (dot.new_seeds, 3.0)):
                    if found is not None:
                        ax.plot([found.low, found.high], [place, place], color=GREY, linewidth=width, alpha=0.8)
                look = looks[dot.forecaster]
                ax.plot([max(dot.skill, low)], [place], color=look["color"], zorder=3, linestyle="none",
                        marker=look["marker"] if dot.skill >= low else 4)  # fmt: skip
            ax.set_yticks(range(len(dots)), [dot.label for dot in dots])
            ax.tick_params(axis="y", length=0)
            margin = 0.04 * (high - low)
            ax.set(title=title, ylim=(len(dots) - 0.5, -0.5), xlim=(low - margin, high + margin))
            ax.grid(axis="x")
        figure.supxlabel("skill: the part of the reference's error that is saved; more is better")
        handles = [
            legend_line(label, GREY, linewidth=width)
            for label, width, there in (
                ("95 %, a new recipe", 0.8, [dot.new_recipe for dots in panels.values() for dot in dots]),
                ("95 %, new seeds of these recipes", 3.0, [dot.new_seeds for dots in panels.values() for dot in dots]),
            )
            if any(there)
        ]
        if handles:
            figure.legend(handles=handles, loc="outside upper center", ncols=2)
        save_figure(figure, path)


PARTS: Mapping[str, Maker] = {"answer": results_answer}

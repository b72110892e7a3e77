"""The figure of dots and intervals with which reports open."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

from leaderboard.committed import REPORTS
from leaderboard.pages.inputs import season_sets
from moeload_bench.results.report import report_of
from moeload_bench.results.results import Results
from moeload_bench.states.rule import LABELS
from moeload_bench.style import GREY, forecaster_looks, legend_line, new_figure, save_figure, style

LEAST = -1.0
"""Skill below this is drawn at the edge: one bad forecaster must not squeeze all others."""


class Ends(Protocol):
    """The ends of an interval."""

    @property
    def low(self) -> float: ...

    @property
    def high(self) -> float: ...


class Span(NamedTuple):
    """An interval by its ends."""

    low: float
    high: float


class Dot(NamedTuple):
    """A line of the figure: whose skill, its label, and its intervals, where there are some."""

    label: str
    forecaster: str
    skill: float
    new_recipe: Ends | None = None
    new_seeds: Ends | None = None


def draw_results() -> None:
    """Draw the newest season's standings, those of each set and state apart."""
    panels = {
        f"{runs.title}, {state}": dots for runs in season_sets() for state, dots in state_dots(runs.results).items()
    }
    draw_dots(panels, REPORTS / "results.svg")


def state_dots(results: Results) -> dict[str, list[Dot]]:
    """Return by state every forecaster's skill with both intervals, the best first."""
    report = report_of(results)

    def span(low: float, high: float) -> Span | None:
        return Span(low, high) if low == low else None

    return {
        state: [
            Dot(row.forecaster, row.forecaster, row.skill, span(row.low, row.high), span(*row.seeds))
            for row in report.rows_in(state)
            if row.skill == row.skill
        ]
        for state in report.states
        if state in LABELS
    }


def draw_dots(panels: Mapping[str, Sequence[Dot]], path: Path) -> None:
    """Draw a panel for each title, two beside each other, a line for each dot: skill, with the interval for a new
    recipe thin, that for new seeds thick; further right is better.
    """
    columns = min(2, len(panels))
    rows = -(-len(panels) // columns)
    most = max(map(len, panels.values()))
    looks = forecaster_looks(list(dict.fromkeys(dot.forecaster for dots in panels.values() for dot in dots)))
    ends = [end for dots in panels.values() for dot in dots for interval in (dot.new_recipe, dot.new_seeds) if interval
            for end in (interval.low, interval.high)]  # fmt: skip
    values = [*ends, *(dot.skill for dots in panels.values() for dot in dots)]
    low, high = max(LEAST, min(values)), max(0.05, *values)
    with style():
        figure = new_figure(0.5 + rows * (0.4 + 0.15 * most))
        axes = figure.subplots(rows, columns, squeeze=False).flat
        for ax in axes[len(panels) :]:
            ax.remove()
        for ax, (title, dots) in zip(axes[: len(panels)], panels.items(), strict=True):
            ax.axvline(0, color=GREY, linewidth=0.8)
            for place, dot in enumerate(dots):
                for interval, width in ((dot.new_recipe, 0.8), (dot.new_seeds, 3.0)):
                    if interval is not None:
                        ax.plot([interval.low, interval.high], [place, place], color=GREY, linewidth=width, alpha=0.8)
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

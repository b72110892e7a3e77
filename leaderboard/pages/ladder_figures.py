"""The figures of docs/reports/ladder.md: one point per run against the number of parameters."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from leaderboard.studies.ladder import LadderRun, parameters_of
from leaderboard.studies.rungs import LOADS, Quantity, Rung, names_of, rank_in, regret_in, skill_in
from moeload_bench import style
from moeload_bench.states.rule import LABELS

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def draw_quantity(rungs: Sequence[Rung], quantity: Quantity, path: Path) -> None:
    """Draw one point per run against the number of parameters, a colour for each family."""
    with style.style():
        figure = style.new_figure(2.4, 4.0)
        axes = figure.subplots()
        sizes, handles = [], []
        for i, family in enumerate(dict.fromkeys(rung.family for rung in rungs)):
            own = [(parameters_of(rung.recipe), value) for rung in rungs if rung.family == family
                   for value in rung.values(quantity) if value is not None]  # fmt: skip
            sizes += [size for size, _ in own]
            if own:
                label = "no balancing" if family == "none" else family.replace("_", " ")
                handles += axes.plot(*zip(*own, strict=True), style.MARKERS[i], color=style.PALETTE[i], label=label)
        _finish(axes, sizes, quantity.title.replace("`", ""))
        style.legend_above(figure, "", handles)
        style.save_figure(figure, path)


def draw_scores(
    rungs: Sequence[Rung], title: str, value: Callable[[LadderRun, str, str], float | None], path: Path
) -> None:
    """Draw a panel for each state, a colour for each forecaster: one point per run of the rungs without balancing."""
    with style.style():
        figure = style.new_figure(2.8)
        panels = figure.subplots(1, len(LABELS))
        handles: list[object] = []
        for state, axes in zip(LABELS, panels, strict=True):
            sizes = []
            for name, look in style.forecaster_looks(names_of(rungs)).items():
                own = [(parameters_of(rung.recipe), value(run, name, state)) for rung in rungs if rung.family == "none"
                       for run in rung.runs]  # fmt: skip
                known = [(size, v) for size, v in own if v is not None]
                sizes += [size for size, _ in known]
                if known:
                    line = axes.plot(*zip(*known, strict=True), label=name, linestyle="none", **look)
                    handles += line if state == LABELS[0] else []
            _finish(axes, sizes, f"{title}, {state}")
        style.legend_above(figure, "", handles)
        style.save_figure(figure, path)


def _finish(axes: Axes, sizes: Sequence[float], label: str) -> None:
    if sizes:
        style.log_axis(axes.xaxis, min(sizes), max(sizes))
    axes.set(xlabel="parameters", ylabel=label)
    axes.grid(axis="y")


def draw_figures(rungs: Sequence[Rung], folder: Path) -> None:
    """Draw one figure per quantity of the loads, and skill, rank and regret of every forecaster."""
    for quantity in LOADS:
        draw_quantity(rungs, quantity, folder / f"{quantity.name}.svg")
    draw_scores(rungs, "skill", lambda run, name, state: skill_in(state, name)(run), folder / "skill.svg")
    draw_scores(rungs, "rank", lambda run, name, state: rank_in(run, state, name), folder / "rank.svg")
    draw_scores(
        rungs, "regret, h = 1,000", lambda run, name, state: regret_in(state, name, 1000)(run), folder / "regret.svg"
    )

"""Where decision and error disagree: the pairs of forecasters that regret and window_tv order apart."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from moeload_bench.errors import ResultError
from moeload_bench.placement.cost import HEADLINE
from moeload_bench.results.figures import averaged_over
from moeload_bench.results.grid import ResultGrid, result_grid
from moeload_bench.results.record import Result
from moeload_bench.scoring.catalogue import PRIMARY
from moeload_bench.style import forecaster_looks, legend_above, panels, style
from moeload_bench.suites.suite import STATES

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class Disagreement(NamedTuple):
    """``by_error`` has the lower window_tv, ``by_regret`` the lower regret, each by more than the margin."""

    state: str
    horizon: int
    by_error: str
    by_regret: str
    error_ratio: float
    regret_gap: float


def disagreements(
    results: Sequence[Result], shape: str = HEADLINE, *, margin: float = 0.05, least_regret: float = 0.002
) -> list[Disagreement]:
    """Pairs of forecasters that window_tv and regret order differently, the largest gap in regret first.

    Counted when one has a window_tv lower by more than ``margin`` (relative) and the other a regret lower by more than
    ``least_regret`` (imbalance, absolute: less is not worth a plan). No significance is claimed. Raises `ResultError`
    for results without the metrics.
    """
    error, regret = error_and_regret(results, shape)
    apart = []
    for state in STATES:
        names = [row.forecaster for row in error.of_state(state)]
        for (a, b), (k, horizon) in itertools.product(itertools.permutations(names, 2), enumerate(error.horizons)):
            error_a, error_b = value_at(error, state, a, k), value_at(error, state, b, k)
            regret_a, regret_b = value_at(regret, state, a, k), value_at(regret, state, b, k)
            if None in (error_a, error_b, regret_a, regret_b) or not error_a:
                continue
            ratio, gap = error_b / error_a, regret_a - regret_b  # type: ignore[operator]  # None was left out above
            if ratio > 1 + margin and gap > least_regret:
                apart.append(Disagreement(state, horizon, a, b, ratio, gap))
    return sorted(apart, key=lambda d: -d.regret_gap)


def error_and_regret(results: Sequence[Result], shape: str) -> tuple[ResultGrid, ResultGrid]:
    """Return the tables of window_tv and of regret at a cluster shape.

    Raise `ResultError` for results without them.
    """
    if not results:
        raise ResultError("no results, expected at least one")
    grids = [result_grid(results, metric) for metric in (PRIMARY, f"regret@{shape}")]
    if grids[0] is None or grids[1] is None:
        raise ResultError(f"the results of suite {results[0].suite.name} hold no {PRIMARY} or no regret@{shape}")
    return grids[0], grids[1]


def value_at(grid: ResultGrid, state: str, forecaster: str, k: int) -> float | None:
    """Return a forecaster's cell of a state at horizon number ``k``; None where there is none."""
    rows = (row for row in grid.rows if row.state == state and row.forecaster == forecaster)
    return next((row.value_K[k] for row in rows), None)


def draw_regret(results: Sequence[Result], shape: str = HEADLINE) -> Figure:
    """Draw regret against window_tv, one panel per state; a line joins a forecaster's horizons, shortest one large.

    If both metrics agree, the order of the lines from left to right is their order from bottom to top.
    """
    error, regret = error_and_regret(results, shape)
    states = [state for state in regret.states if state in STATES]
    with style():
        from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

        figure, axes = panels(len(states), height=2.9, columns=len(states))
        handles: list[Any] = []
        for ax, state in zip(axes, states, strict=True):
            names = [row.forecaster for row in error.of_state(state)]
            for name, look in forecaster_looks(names).items():
                pairs = [
                    [value_at(grid, state, name, k) for grid in (error, regret)] for k in range(len(error.horizons))
                ]
                points = [(x, y) for x, y in pairs if x is not None and y is not None]
                (line,) = ax.plot(
                    [x for x, _ in points], [100 * y for _, y in points], label=name, linewidth=0.6, **look
                )
                if points:
                    ax.plot(points[0][0], 100 * points[0][1], markersize=7, **look)
                handles += [line] if ax is axes[0] else []
            ax.set_xscale("log")
            ax.set_yscale("symlog", linthresh=0.1)
            ax.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            ax.xaxis.set_minor_formatter(NullFormatter())
            for axis in (ax.xaxis, ax.yaxis):
                axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            ax.set_title(averaged_over(error.of_state(state)[0]))
            ax.grid()
        figure.supxlabel("window_tv [fraction of tokens]")
        figure.supylabel(f"regret@{shape} [%]")
        horizons = ", ".join(f"{horizon:,}" for horizon in error.horizons)
        legend_above(figure, f"suite {results[0].suite.name}; horizons {horizons}, the shortest large", handles)
        return figure

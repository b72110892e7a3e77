"""Where decision and error disagree: regret against window_tv, and the pairs of forecasters that they order apart."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from moeload_bench.errors import ResultError
from moeload_bench.placement.cost import HEADLINE
from moeload_bench.plots.results import over
from moeload_bench.plots.style import MARKERS, PALETTE, legend_above, panels, style
from moeload_bench.results.grid import Grid, result_grid
from moeload_bench.results.record import Result
from moeload_bench.suites.suite import STATES

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ERROR = "window_tv"


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
    error, regret = _grids(results, shape)
    apart = []
    for state in STATES:
        names = [row.forecaster for row in error.rows if row.state == state]
        for (a, b), (k, horizon) in itertools.product(itertools.permutations(names, 2), enumerate(error.horizons)):
            error_a, error_b = _value(error, state, a, k), _value(error, state, b, k)
            regret_a, regret_b = _value(regret, state, a, k), _value(regret, state, b, k)
            if None in (error_a, error_b, regret_a, regret_b) or not error_a:
                continue
            ratio, gap = error_b / error_a, regret_a - regret_b  # type: ignore[operator]  # None was left out above
            if ratio > 1 + margin and gap > least_regret:
                apart.append(Disagreement(state, horizon, a, b, ratio, gap))
    return sorted(apart, key=lambda d: -d.regret_gap)


def draw_regret(results: Sequence[Result], shape: str = HEADLINE) -> Figure:
    """Regret against window_tv, one panel per state; a line joins a forecaster's horizons, the shortest one is large.

    Where both agree, the order of the lines from left to right is their order from bottom to top.
    """
    error, regret = _grids(results, shape)
    states = [state for state in STATES if any(row.state == state for row in regret.rows)]
    with style():
        from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

        figure, axes = panels(len(states), height=2.9, columns=len(states))
        handles: list[Any] = []
        for ax, state in zip(axes, states, strict=True):
            names = [row.forecaster for row in error.rows if row.state == state]
            for i, name in enumerate(names):
                at = [
                    (_value(error, state, name, k), _value(regret, state, name, k)) for k in range(len(error.horizons))
                ]
                points = [(x, y) for x, y in at if x is not None and y is not None]
                look: dict[str, Any] = {"color": PALETTE[i % len(PALETTE)], "marker": MARKERS[i % len(MARKERS)]}
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
            ax.set_title(next(over(row) for row in error.rows if row.state == state))
            ax.grid()
        figure.supxlabel("window_tv [fraction of tokens]")
        figure.supylabel(f"regret@{shape} [%]")
        horizons = ", ".join(f"{horizon:,}" for horizon in error.horizons)
        legend_above(figure, f"suite {results[0].suite.name}; horizons {horizons}, the shortest large", handles)
        return figure


def _grids(results: Sequence[Result], shape: str) -> tuple[Grid, Grid]:
    if not results:
        raise ResultError("no results, expected at least one")
    grids = [result_grid(results, metric) for metric in (ERROR, f"regret@{shape}")]
    if grids[0] is None or grids[1] is None:
        raise ResultError(f"the results of suite {results[0].suite.name} hold no {ERROR} or no regret@{shape}")
    return grids[0], grids[1]


def _value(grid: Grid, state: str, forecaster: str, k: int) -> float | None:
    rows = (row for row in grid.rows if row.state == state and row.forecaster == forecaster)
    return next((row.value_K[k] for row in rows), None)

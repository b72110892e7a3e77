"""Figures of results: error against horizon with the floors, accuracy against cost.

What is drawn is `moeload_bench.results.grid.result_grid`, number for number. Axis letters: K suite horizons.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from moeload_bench.errors import ResultError, counted, not_found
from moeload_bench.results.grid import ResultGrid, Row, Values, front_of, known_grid
from moeload_bench.results.record import Result
from moeload_bench.results.tables import marked_floor
from moeload_bench.scoring.catalogue import lower_is_better, metric_spec
from moeload_bench.style import GREY, forecaster_looks, legend_above, legend_line, log_axis, log_if_wide, panels, style
from moeload_bench.suites.suite import STATES

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FLOOR_LINES: dict[str, Any] = {"floor_batch": (0, (5, 1.5)), "floor_level": (0, (1, 1)), "floor_sampling": "-."}
DEFAULT_HORIZON = 100


def draw_horizon(results: Sequence[Result], metric: str = "window_tv") -> Figure:
    """Draw a metric against the horizon, one panel per state, with the floors under it.

    Raise `ResultError` for results of different suites, `NotFoundError` for a metric that they do not have.
    """
    grid = _grid(results, metric)
    with style():
        figure, axes, states = _state_panels(grid)
        look = _look(results)
        for ax, state in zip(axes, states, strict=True):
            for row in grid.of_state(state):
                ax.plot(grid.horizons, _numbers(row.value_K), label=row.forecaster, **look[row.forecaster])
            for floor, dashes in FLOOR_LINES.items():
                if (state, floor) in grid.floors:
                    ax.plot(
                        grid.horizons, _numbers(grid.floors[state, floor]), color=GREY, linestyle=dashes, label=floor
                    )
            ax.set_xscale("log")
            ax.set_xticks(grid.horizons, [f"{horizon:,}" for horizon in grid.horizons], rotation=45, ha="right")
            ax.minorticks_off()
            ax.grid(axis="y")
        log_if_wide(axes)
        figure.supxlabel("horizon [training steps]")
        floors = [
            legend_line(marked_floor(name, grid.marks), GREY, dashes)
            for name, dashes in FLOOR_LINES.items()
            if any(name == key[1] for key in grid.floors)
        ]
        _label(figure, metric)
        legend_above(figure, _title(results), [*_handles(results), *floors])
        return figure


def draw_cost(results: Sequence[Result], metric: str = "window_tv", horizon: int | None = None) -> Figure:
    """Draw a metric at one horizon against the CPU time of a forecast, observing included; one panel per state.

    CPU time, because most of the wall time at isolation level `process` goes into messages between processes. The
    stepped line joins the forecasters that no other one beats in both. A forecaster whose CPU time was not measured is
    named in the legend and not drawn. The horizon is by default DEFAULT_HORIZON steps, or the suite's nearest. Raise as
    `draw_horizon`, and `NotFoundError` for a horizon that the suite does not have.
    """
    grid = _grid(results, metric)
    k = _horizon_index(grid, horizon)
    with style():
        figure, axes, states = _state_panels(grid)
        look = _look(results)
        spent = {result.name: ms for result in results if (ms := result.cpu_ms) is not None}
        for ax, state in zip(axes, states, strict=True):
            known = [row for row in grid.of_state(state) if row.forecaster in spent]
            rows = [row for row in known if row.value_K and row.value_K[k] is not None]
            points = [(spent[row.forecaster], float(row.value_K[k] or 0.0)) for row in rows]
            for row, (x, y) in zip(rows, points, strict=True):
                ax.plot(
                    [x], [y], label=row.forecaster, **{**look[row.forecaster], "linestyle": "none", "markersize": 6}
                )
            _front(ax, points, lower_is_better(metric) is not False)
            if (state, "floor_batch") in grid.floors:
                ax.axhline(_numbers(grid.floors[state, "floor_batch"])[k], color=GREY, linestyle=(0, (5, 1.5)))
            ax.grid()
        if spent:
            log_axis(axes[0].xaxis, min(spent.values()), max(spent.values()))
        log_if_wide(axes)
        figure.supxlabel("time per forecast, observing included [ms of CPU time]")
        front = legend_line("not beaten in both", GREY, "-", linewidth=0.8)
        floors = [legend_line(marked_floor("floor_batch", grid.marks), GREY, (0, (5, 1.5)))] if grid.floors else []
        unmeasured = sorted(set(look) - set(spent))
        note = f"; CPU time not measured: {', '.join(unmeasured)}" if unmeasured else ""
        _label(figure, metric, f" at a horizon of {grid.horizons[k]:,} steps")
        legend_above(figure, _title(results) + note, [*_handles(results, dots=True), front, *floors])
        return figure


def _grid(results: Sequence[Result], metric: str) -> ResultGrid:
    if not results:
        raise ResultError("no result to draw")
    return known_grid(results, metric)


def _horizon_index(grid: ResultGrid, horizon: int | None) -> int:
    if horizon is None:
        return int(np.abs(np.log(np.array(grid.horizons) / DEFAULT_HORIZON)).argmin())
    if horizon not in grid.horizons:
        raise not_found("horizon", str(horizon), map(str, grid.horizons))
    return grid.horizons.index(horizon)


def _state_panels(grid: ResultGrid) -> tuple[Figure, list[Axes], list[str]]:
    """Return one panel for each state that has rows, and how many runs and origins its means are over."""
    states: list[str] = [state for state in grid.states if state in STATES]
    figure, axes = panels(len(states), height=2.7, columns=len(states))
    for ax, state in zip(axes, states, strict=True):
        ax.set_title(averaged_over(grid.of_state(state)[0]))
    return figure, axes, states


def averaged_over(row: Row) -> str:
    """Return the state of a row, and over how many runs and origins its values are means."""
    return f"{row.state}: mean over {counted(row.runs, 'run')}, {counted(row.origins, 'origin')}"


def _look(results: Sequence[Result]) -> dict[str, dict[str, Any]]:
    return forecaster_looks([result.name for result in results])


def _handles(results: Sequence[Result], dots: bool = False) -> list[Any]:
    """Return legend entries; they count a forecaster's failed tasks, each of which scores as the worst possible."""
    handles = []
    for name, marks in _look(results).items():
        failed = sum(len(result.failures) for result in results if result.name == name)
        label = f"{name} ({counted(failed, 'task')} failed)" if failed else name
        handles.append(legend_line(label, linestyle="none" if dots else "-", **marks))
    return handles


def _front(ax: Axes, points: Sequence[tuple[float, float]], lower_is_better: bool) -> None:
    """Draw the steps that join the (cost, value) points which no other point beats in both."""
    on_it = front_of({str(i): point for i, point in enumerate(points)}, lower_is_better)
    if len(on_it) > 1:
        x, y = zip(*sorted(points[int(i)] for i in on_it), strict=True)
        ax.step(x, y, where="post", color=GREY, linewidth=0.8, zorder=1, gid="front")


def _label(figure: Figure, metric: str, more: str = "") -> None:
    spec = metric_spec(metric)
    figure.supylabel(f"{metric}{more}" + (f"\n[{spec.unit}]" if spec else ""))


def _title(results: Sequence[Result]) -> str:
    """Return the suite, or the trace if the suite is an ad-hoc one over one trace."""
    traces = {run.trace for result in results for run in result.runs}
    name = results[0].suite.name
    return f"suite {name}" if len(traces) > 1 or not name.startswith("trace:") else next(iter(traces))


def _numbers(values: Values) -> NDArray[np.float64]:
    return np.array([np.nan if value is None else value for value in values], dtype=np.float64)

"""Figures of results: error against horizon with the floors, accuracy against cost.

What is drawn is a `moeload_bench.results.report.Report`, number for number.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import isnan
from typing import TYPE_CHECKING, Any

import numpy as np

from moeload_bench.errors import ResultError, counted, not_found
from moeload_bench.results.columns import floor_marks
from moeload_bench.results.formats import marked_floor
from moeload_bench.results.report import Report, ReportRow, front_of, report_of
from moeload_bench.results.results import Results
from moeload_bench.results.strata import size_groups
from moeload_bench.scoring.catalogue import lower_is_better, metric_spec
from moeload_bench.style import GREY, forecaster_looks, legend_above, legend_line, log_axis, log_if_wide, panels, style
from moeload_bench.suites.suite import STATES

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FLOOR_LINES: dict[str, Any] = {"floor_batch": (0, (5, 1.5)), "floor_level": (0, (1, 1)), "floor_sampling": "-."}
DEFAULT_HORIZON = 100


def draw_horizon(results: Results, metric: str = "window_tv") -> Figure:
    """Draw a metric against the horizon, one panel per size of batch and state, with the floors under it.

    Drawn are the horizons that every run of the panel has, so that all points of a line are means over the same runs.

    Raise `ResultError` for results of different suites, `NotFoundError` for a metric that they do not have.
    """
    report = _report(results, metric)
    with style():
        figure, axes, cells = _state_panels(results, metric)
        look = forecaster_looks(results.names)
        for ax, (part, state) in zip(axes, cells, strict=True):
            k = shared_horizons(part, state)
            steps = [report.horizons[index] for index in k]
            for row in part.rows_in(state):
                ax.plot(steps, [row.value_K[index] for index in k], label=row.forecaster, **look[row.forecaster])
            for floor, dashes in FLOOR_LINES.items():
                if value_K := part.floors.get((state, floor)):
                    ax.plot(steps, [value_K[index] for index in k], color=GREY, linestyle=dashes, label=floor)
            ax.set_xscale("log")
            ax.set_xticks(report.horizons, [f"{horizon:,}" for horizon in report.horizons], rotation=45, ha="right")
            ax.minorticks_off()
            ax.grid(axis="y")
        log_if_wide(axes)
        figure.supxlabel("horizon [training steps]")
        marks, named = floor_marks(results.facts), report.floor_names
        floors = [
            legend_line(marked_floor(name, marks), GREY, FLOOR_LINES[name]) for name in FLOOR_LINES if name in named
        ]
        _label(figure, metric)
        legend_above(figure, _title(results), [*_handles(results), *floors])
        return figure


def draw_cost(results: Results, metric: str = "window_tv", horizon: int | None = None) -> Figure:
    """Draw a metric at one horizon against the CPU time of a forecast, observing included; a panel per size and state.

    CPU time, because most of the wall time at isolation level `process` goes into messages between processes. The
    stepped line joins the forecasters that no other one beats in both. A forecaster whose CPU time was not measured is
    named in the legend and not drawn. The horizon is by default DEFAULT_HORIZON steps, or the suite's nearest. Raise as
    `draw_horizon`, and `NotFoundError` for a horizon that the suite does not have.
    """
    report = _report(results, metric)
    k = _horizon_index(report, horizon)
    with style():
        figure, axes, cells = _state_panels(results, metric)
        look = forecaster_looks(results.names)
        spent: dict[str, float] = {}
        for ax, (part, state) in zip(axes, cells, strict=True):
            rows = [row for row in part.rows_in(state) if not isnan(row.ms)]
            spent |= {row.forecaster: row.ms for row in rows}
            rows = [row for row in rows if not isnan(row.value_K[k])]
            points = [(row.ms, row.value_K[k]) for row in rows]
            for row, (x, y) in zip(rows, points, strict=True):
                ax.plot(
                    [x], [y], label=row.forecaster, **{**look[row.forecaster], "linestyle": "none", "markersize": 6}
                )
            _front(ax, points, lower_is_better(metric) is not False)
            if floor_K := part.floors.get((state, "floor_batch")):
                ax.axhline(floor_K[k], color=GREY, linestyle=(0, (5, 1.5)))
            ax.grid()
        if spent:
            log_axis(axes[0].xaxis, min(spent.values()), max(spent.values()))
        log_if_wide(axes)
        figure.supxlabel("time per forecast, observing included [ms of CPU time]")
        front = legend_line("not beaten in both", GREY, "-", linewidth=0.8)
        marked = marked_floor("floor_batch", floor_marks(results.facts))
        floors = [legend_line(marked, GREY, (0, (5, 1.5)))] if report.floor_names else []
        unmeasured = sorted(set(look) - set(spent))
        note = f"; CPU time not measured: {', '.join(unmeasured)}" if unmeasured else ""
        _label(figure, metric, f" at a horizon of {report.horizons[k]:,} steps")
        legend_above(figure, _title(results) + note, [*_handles(results, dots=True), front, *floors])
        return figure


def _report(results: Results, metric: str) -> Report:
    if not len(results):
        raise ResultError("no result to draw")
    return report_of(results, metric)


def _horizon_index(report: Report, horizon: int | None) -> int:
    if horizon is None:
        return int(np.abs(np.log(np.array(report.horizons) / DEFAULT_HORIZON)).argmin())
    if horizon not in report.horizons:
        raise not_found("horizon", str(horizon), map(str, report.horizons))
    return report.horizons.index(horizon)


def _state_panels(results: Results, metric: str) -> tuple[Figure, list[Axes], list[tuple[Report, str]]]:
    """Return a panel for each size of batch and state that has rows; sizes are never averaged together."""
    reports = {title: _report(part, metric) for title, part in size_groups(results).items()}
    cells = [(title, report, state) for title, report in reports.items() for state in report.states if state in STATES]
    columns = len(cells) if len(reports) == 1 else max(1, len(cells) // len(reports))
    figure, axes = panels(len(cells), height=2.7, columns=columns)
    for ax, (title, report, state) in zip(axes, cells, strict=True):
        size = title.partition(",")[0].lower() if len(reports) > 1 else ""
        ax.set_title(averaged_over(report.rows_in(state)[0]) + (f"\n{size}" if size else ""))
    return figure, axes, [(report, state) for _, report, state in cells]


def shared_horizons(report: Report, state: str) -> list[int]:
    """Return the places of the horizons at which every run of a state has a value."""
    table = report.results.table
    rows = table[(table["state"] == state) & table[report.metric].notna()]
    runs = rows.groupby("horizon")["trace"].nunique()
    return [k for k, horizon in enumerate(report.horizons) if runs.get(horizon, 0) == rows["trace"].nunique() > 0]


def averaged_over(row: ReportRow) -> str:
    """Return the state of a row, and over how many runs and origins its values are means."""
    return f"{row.state}: mean over {counted(row.runs, 'run')}, {counted(max(row.origins_K), 'origin')}"


def _handles(results: Results, dots: bool = False) -> list[Any]:
    """Return legend entries; they count a forecaster's failed tasks, each of which scores as the worst possible."""
    handles, failures = [], results.failures["forecaster"].value_counts()
    for name, marks in forecaster_looks(results.names).items():
        failed = int(failures.get(name, 0))
        label = f"{name} ({counted(failed, 'task')} failed)" if failed else name
        handles.append(legend_line(label, linestyle="none" if dots else "-", **marks))
    return handles


def _front(ax: Axes, points: Sequence[tuple[float, float]], lower_is_better: bool) -> None:
    """Draw the steps that join the (cost, value) points which no other point beats in both."""
    on_it = front_of(points, lower_is_better)
    if len(on_it) > 1:
        x, y = zip(*sorted(points[i] for i in on_it), strict=True)
        ax.step(x, y, where="post", color=GREY, linewidth=0.8, zorder=1, gid="front")


def _label(figure: Figure, metric: str, more: str = "") -> None:
    spec = metric_spec(metric)
    figure.supylabel(f"{metric}{more}" + (f"\n[{spec.unit}]" if spec else ""))


def _title(results: Results) -> str:
    """Return the suite, or the trace if the suite is an ad-hoc one over one trace."""
    name, traces = results.suite.name, results.traces
    return f"suite {name}" if len(traces) > 1 or not name.startswith("trace:") else traces[0]

"""The counterparts of the paper's figures, drawn from a trace and from the results of its study (extra `plot`).

Axis letters: O origins.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from leaderboard.paper.measuring import in_blocks
from leaderboard.paper.study import PAPER_FORECASTERS, PARTS, RunStudy
from leaderboard.paper.verdicts import PART_NAMES
from moeload_bench import style
from moeload_bench.evaluation.harness import row_of
from moeload_bench.forecaster import Forecast
from moeload_bench.plots.panels import STEP_LABEL, View, bin_rows, title_of, view_trace
from moeload_bench.plots.traces import draw_shares, draw_sliding
from moeload_bench.results.record import Result, RunResult
from moeload_bench.states.rule import state_names
from moeload_bench.style import legend_line
from moeload_bench.traces.trace import Trace, shares

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DEFINITIONS = ("error_rate", "window_error_rate", "tv", "window_tv")
"""Drawn for all forecasters together; `error_rate_uniform` is twice `tv`."""
RATES = ("error_rate", "window_error_rate")
"""Drawn for one forecaster: the readings of a ratio, per step and on window means."""
FLOORS: dict[str, Any] = {"floor_batch": (0, (3, 2)), "floor_sampling": "-."}
SPREAD = 4
"""Layers, spread over the model, of which the short window is drawn."""
DASHES: tuple[Any, ...] = ("-", (0, (4, 1.2)), (0, (1, 1)))
BEFORE = 500
"""Steps shown before the origin of a forecast."""
AVERAGED = 50
"""Steps per mean of what was measured."""
BARS = 0.35
"""Opacity of blocks, so that the sliding curve is seen on them."""


def draw_figures(
    trace: Trace, study: RunStudy, results: Sequence[Result], forecasts: Mapping[str, Forecast], origin: int
) -> Iterator[tuple[str, Figure]]:
    """Yield (name, figure) in the paper's order, one at a time; those of a forecaster that did not run are left out.

    ``forecasts`` are those at the ``origin``, maybe none.
    """
    names = [layer.name for layer in study.states]
    first_middle = list(dict.fromkeys((names[0], names[len(names) // 2])))
    view = view_trace(trace)
    yield "loads", draw_shares(view_trace(trace, first_middle))
    spread = np.linspace(0, len(names) - 1, min(SPREAD, len(names))).round().astype(int)
    yield "variance-10", draw_sliding(view_trace(trace, [names[i] for i in spread]), "variance", 10)
    yield "variance-100", draw_sliding(view, "variance", 100)
    yield "range-100", draw_sliding(view, "range", 100)
    ran = dict(zip(study.targets, results, strict=True))
    paper_ones = {name: ran[name] for name in PAPER_FORECASTERS if name in ran}
    short, long = results[0].suite.horizons[0], results[0].suite.horizons[-1]
    if forecasts:
        yield "forecasts", draw_forecasts(view, forecasts, origin)
    if paper_ones:
        yield f"errors-{short}", draw_errors(view, paper_ones, short)
    for name, horizon in (("lstm", short), ("arima", short), ("sw_avg", short), ("sw_avg", long)):
        if name in paper_ones:
            yield f"{name}-{horizon}", draw_protocols(view, name, paper_ones[name], horizon)
    yield "layers", draw_layers(view, study, short)


def draw_errors(view: View, results: dict[str, Result], horizon: int) -> Figure:
    """Draw each forecaster's error at every sliding origin, a panel per definition, means over layers, with the
    floors.
    """
    with style.style():
        figure, axes = style.panels(len(DEFINITIONS), height=1.9, columns=2, share_y=False)
        for ax, metric in zip(axes, DEFINITIONS, strict=True):
            for i, (name, result) in enumerate(results.items()):
                origin_O, error_O = curve(result.runs[0], metric, result.suite.horizons.index(horizon))
                _line(ax, i, len(results), name, origin_O, error_O)
            _dress(ax, view, next(iter(results.values())), metric, horizon)
            low, high = _range(ax)
            if low > 0:
                style.log_axis(ax.yaxis, low, high)
        handles = [legend_line(name, markersize=3, **style.forecaster_looks([name])[name]) for name in results]
        _finish(figure, view, horizon, handles)
        return figure


def draw_protocols(view: View, name: str, result: Result, horizon: int) -> Figure:
    """Draw one forecaster, sliding as a curve over the origins and in blocks as bars over their windows."""
    from matplotlib.patches import Patch

    with style.style():
        figure, axes = style.panels(len(RATES), height=1.9, columns=1, share_y=False)
        k = result.suite.horizons.index(horizon)
        (run,) = result.runs
        blocks = in_blocks(run, int(view.trace.step_S[0]), horizon)
        look = style.forecaster_looks([name])[name]
        for ax, metric in zip(axes, RATES, strict=True):
            at_O, height_O = curve(blocks, metric, k)
            ax.bar(
                at_O, height_O, width=horizon, align="edge", color=look["color"], alpha=BARS, edgecolor="white",
                label="blocks",
            )  # fmt: skip
            origin_O, error_O = curve(run, metric, k)
            _line(ax, 0, 1, name, origin_O, error_O)
            _dress(ax, view, result, metric, horizon)
            ax.set_ylim(0, 1.08 * _range(ax)[1] or 1.0)
        handles = [
            legend_line(f"{name}, sliding, at the origin", markersize=3, **look),
            Patch(facecolor=look["color"], alpha=BARS, label=f"{name}, in blocks, over the window"),
        ]
        _finish(figure, view, horizon, handles)
        return figure


def draw_forecasts(view: View, forecasts: Mapping[str, Forecast], origin: int) -> Figure:
    """Draw what was forecast at one origin and what came: for two layers the most, a middling and the least loaded
    expert.

    Thin and light: each step's share. Dark grey: means of AVERAGED steps. An expert's place is that of the steps
    shown before the origin.
    """
    with style.style():
        trace = view.trace
        layers = list(dict.fromkeys((0, trace.num_layers // 2)))
        horizon = max(int(one.edges_B[-1]) for one in forecasts.values())
        row = row_of(trace, origin)
        first = max(0, row - BEFORE)
        figure, axes = style.panels(3 * len(layers), height=1.7, columns=3, share_y=False)
        step_S = trace.step_S[first : row + horizon]
        for place, layer in enumerate(layers):
            share_SE = shares(trace.load_SLE[first : row + horizon, layer])
            order_E = np.argsort(share_SE[: row - first].sum(axis=0), kind="stable")
            chosen = (order_E[-1], order_E[len(order_E) // 2], order_E[0])
            for ax, expert in zip(axes[3 * place :], chosen, strict=False):
                _truth(ax, step_S, share_SE[:, expert])
                _stairs(ax, forecasts, origin, layer, int(expert))
                ax.set_title(f"{view.name(layer)}, expert {expert}")
        figure.supxlabel(STEP_LABEL)
        figure.supylabel("share of the layer's tokens [fraction]")
        looks = style.forecaster_looks(list(forecasts))
        handles = [legend_line(name, looks[name]["color"], DASHES[i]) for i, name in enumerate(forecasts)]
        handles.append(legend_line(f"measured, means of {AVERAGED} steps", style.GREY))
        handles.append(legend_line("measured, each step", "#BBBBBB"))
        title = f"{title_of(view)}: forecasts of the next {horizon:,} steps at step {origin:,} (dotted)"
        style.legend_above(figure, title, handles, columns=5)
        return figure


def _stairs(ax: Axes, forecasts: Mapping[str, Forecast], origin: int, layer: int, expert: int) -> None:
    looks = style.forecaster_looks(list(forecasts))
    for i, (name, one) in enumerate(forecasts.items()):
        edges = origin + np.concatenate([[0], one.edges_B])
        path = one.share_BLE[:, layer, expert]
        look = {"color": looks[name]["color"], "linestyle": DASHES[i], "linewidth": 1.4}
        ax.stairs(path, edges, baseline=None, label=name, **look)
    ax.axvline(origin, color=style.GREY, linestyle=":", linewidth=1.0)


def _truth(ax: Axes, step_S: np.ndarray, share_S: np.ndarray) -> None:
    ax.plot(step_S, share_S, color="#BBBBBB", linewidth=0.3, zorder=1)
    bins = bin_rows(step_S, 1, share_S, AVERAGED)
    ax.plot(bins.middle_N, bins.mean_NX, color=style.GREY, linewidth=1.2, zorder=2)


def draw_layers(view: View, study: RunStudy, horizon: int) -> Figure:
    """Layers side by side: mean sliding variance and range, before and after the last onset; stable-state errors."""
    with style.style():
        figure, axes = style.panels(4, height=1.9, columns=2, share_y=False)
        names = [layer.name for layer in study.states]
        for ax, (statistic, unit) in zip(axes[:2], (("variance", "fraction²"), ("range", "fraction")), strict=True):
            for i, part in enumerate(PARTS):
                _dots(ax, _part_look(i), PART_NAMES[part], study.fluctuates(statistic, 100, part), 1.0)
            ax.set_title(f"{statistic} of the share, w = 100 [{unit}]")
        rows = [row for row in study.errors if row.per_layer and (row.state, row.horizon) == ("stable", horizon)]
        for ax, metric in zip(axes[2:], RATES, strict=True):
            for row in rows:
                look = style.forecaster_looks([row.forecaster])[row.forecaster]
                _dots(ax, look, row.forecaster, row.per_layer[metric], 100.0)
            ax.set_title(f"{metric}, stable, next {horizon:,} steps [%]")
        for ax in axes:
            drawn = _range(ax)
            if drawn[0] > 0:
                style.log_axis(ax.yaxis, *drawn)
            ax.set_xticks(range(len(names)), names, rotation=90 if max(map(len, names)) > 3 else 0)
            ax.grid(axis="y")
        figure.supxlabel("MoE layer, in the model's order")
        parts = [legend_line(PART_NAMES[part], linestyle=":", **_part_look(i)) for i, part in enumerate(PARTS)]
        looks = style.forecaster_looks([row.forecaster for row in rows])
        forecasters = [legend_line(name, linestyle=":", **look) for name, look in looks.items()]
        style.legend_above(figure, title_of(view), [*parts, *forecasters], columns=3)
        return figure


def _part_look(i: int) -> dict[str, Any]:
    """Return colour and marker of a part of the run: of no forecaster that the paper has."""
    return {"color": style.PALETTE[3 + i], "marker": style.MARKERS[3 + i]}


def _dots(ax: Axes, look: dict[str, Any], label: str, value_L: Sequence[float | None], scale: float) -> None:
    value = scale * np.array(value_L, dtype=np.float64)
    ax.plot(range(len(value)), value, linestyle=":", linewidth=0.8, label=label, **look)


def curve(run: RunResult, metric: str, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Origins and the error in percent at each, a mean over layers; NaN where there is none."""
    values = [task.metrics.get(metric, ())[k : k + 1] for task in run.tasks]
    error = np.array([value[0] if value else np.nan for value in values], dtype=np.float64)
    return np.array([task.origin for task in run.tasks]), 100.0 * error


def _line(ax: Axes, i: int, count: int, name: str, origin_O: np.ndarray, error_O: np.ndarray) -> None:
    often = max(1, len(origin_O) // 10)
    ax.plot(
        origin_O, error_O, markersize=3, linewidth=0.9, label=name, **style.forecaster_looks([name])[name],
        markevery=(i * often // max(count, 1) % often, often),
    )  # fmt: skip


def _dress(ax: Axes, view: View, result: Result, metric: str, horizon: int) -> None:
    """Floors of the state, the state of the run above the panel, title and ranges."""
    (run,) = result.runs
    k = result.suite.horizons.index(horizon)
    for start, stop, state in run_spans(view):
        for floor, dashes in FLOORS.items():
            value = run.floors.get(state, {}).get(floor, {}).get(metric, (None,) * (k + 1))[k]
            if value is not None:
                ax.plot([start, stop], [100 * value] * 2, color=style.GREY, linestyle=dashes, gid=f"{floor}-{state}")
    style.state_strip(ax, [span for span in run_spans(view) if span[2] != "mixed"])
    ax.set_title(metric, pad=9)
    ax.set_xlim(*view.span)
    ax.grid(axis="y")


def _range(ax: Axes) -> tuple[float, float]:
    """Least and largest value of the lines drawn; (0, 0) for none."""
    drawn = [np.asarray(one.get_ydata(), dtype=np.float64) for one in ax.get_lines()]
    values = np.concatenate([value[np.isfinite(value)] for value in drawn] or [np.zeros(1)])
    return (float(values.min()), float(values.max())) if values.size else (0.0, 0.0)


def run_spans(view: View) -> Iterator[tuple[float, float, str]]:
    """(first step, end, state) of the run as a whole: mixed where layers disagree; nothing without labels."""
    if view.labels is None:
        return
    names, first, stride = state_names(view.labels), int(view.trace.step_S[0]), view.trace.meta.stride
    start = 0
    for row in range(1, len(names) + 1):
        if row == len(names) or names[row] != names[start]:
            yield first + start * stride, first + row * stride, names[start]
            start = row


def _finish(figure: Figure, view: View, horizon: int, handles: list[Any]) -> None:
    figure.supxlabel(STEP_LABEL)
    figure.supylabel(f"error over the next {horizon:,} steps [%]")
    mixed = "; gap in the band: layers disagree" if any(state == "mixed" for *_, state in run_spans(view)) else ""
    floors = [legend_line(f"{name} of the state", style.GREY, dashes) for name, dashes in FLOORS.items()]
    title = f"{title_of(view)}: means over MoE layers{mixed}"
    style.legend_above(figure, title, [*handles, *floors, *style.state_handles()], columns=4)

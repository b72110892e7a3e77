"""The figure of error over training, layer by layer, with the floors of the states.

Axis letters: O origins, L MoE layers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from moeload_bench.errors import PlotError
from moeload_bench.harness.training_errors import TrainingErrors
from moeload_bench.plots.panels import View, decorate_panel, finish_figure
from moeload_bench.scoring.catalogue import metric_spec
from moeload_bench.scoring.floors import FLOOR_METRICS, floors_from, window_starts
from moeload_bench.scoring.scores import horizon_rows
from moeload_bench.style import GREY, forecaster_looks, legend_line, log_if_wide, panels, style, write_remark

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FLOOR_LINE: Any = (0, (3, 2))


def draw_training(view: View, errors: Sequence[TrainingErrors]) -> Figure:
    """Draw one panel per layer: each forecaster's error against the origin, with the floor of the layer's state.

    Raise `PlotError` if the errors are not of one metric and horizon.
    """
    kinds = {(entry.metric, entry.horizon) for entry in errors}
    if len(kinds) != 1:
        raise PlotError(f"error over training is drawn for one metric and horizon, got {sorted(kinds)}")
    metric, horizon = errors[0].metric, errors[0].horizon
    look = forecaster_looks([entry.forecaster for entry in errors])
    with style():
        figure, axes = panels(len(view.layers), height=2.6 if len(view.layers) <= 2 else 1.6)
        for ax, layer in zip(axes, view.layers, strict=True):
            drawn = [_curve(ax, i, entry, layer, look[entry.forecaster]) for i, entry in enumerate(errors)]
            if not any(drawn):
                write_remark(ax, "no load, or no forecast")
            _floor(ax, view, layer, metric, horizon)
        if log_if_wide(axes) >= 0 and axes[0].get_yscale() == "linear":
            axes[0].set_ylim(bottom=0)
        for ax, layer in zip(axes, view.layers, strict=True):
            decorate_panel(ax, view, layer)
            ax.grid(axis="y")
        spec = metric_spec(metric)
        handles = [legend_line(entry.forecaster, **look[entry.forecaster], markersize=3) for entry in errors]
        if metric in FLOOR_METRICS and "load_half" in view.trace.columns:
            handles.append(legend_line("floor_batch of the state", GREY, FLOOR_LINE))
        finish_figure(
            figure, view, f"{metric} over the next {horizon} steps" + (f"\n[{spec.unit}]" if spec else ""), handles
        )
        return figure


def _curve(ax: Axes, i: int, entry: TrainingErrors, layer: int, look: Mapping[str, Any]) -> bool:
    error_O = entry.error_OL[:, layer]
    often = max(1, len(error_O) // 12)
    ax.plot(
        entry.origin_O, error_O, **look, markersize=3,
        markevery=(i * often // 4 % often, often), linewidth=0.9, label=entry.forecaster,
    )  # fmt: skip
    return bool(np.isfinite(error_O).any())


def _floor(ax: Axes, view: View, layer: int, metric: str, horizon: int) -> None:
    """Draw the floor that half batches give, one level for the layer's rows in each state."""
    trace = view.trace
    if view.labels is None or "load_half" not in trace.columns or metric not in FLOOR_METRICS:
        return
    rows_K = horizon_rows((horizon,), trace.meta.stride, trace.steps)
    transient_S = view.labels.transient_SL[:, layer]
    level = {}
    for state, in_state_S in (("transient", transient_S), ("stable", ~transient_S)):
        first_W = window_starts(in_state_S, rows_K[-1])
        if first_W.size:
            level[state] = float(floors_from(trace, {layer: first_W}, rows_K)["floor_batch"].values[metric][0, 0])
    for start, stop, state in view.spans(layer):
        if np.isfinite(level.get(state, np.nan)):
            ax.plot([start, stop], [level[state]] * 2, color=GREY, linestyle=FLOOR_LINE, gid=f"floor-{state}")

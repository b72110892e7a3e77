"""Error over training, layer by layer: a forecaster asked at regular origins, as in the founding paper's evaluation.

Result records keep the mean over layers of each origin, or the mean over origins of each layer, never both apart; so
the forecaster is replayed here by the harness, at the same isolation level and with the same scores.

Axis letters: O origins, L MoE layers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from moeload_bench.errors import PlotError, not_found
from moeload_bench.evaluation.harness import replay, trace_info
from moeload_bench.evaluation.truth import Truth
from moeload_bench.isolation.hosts import Level, open_host
from moeload_bench.isolation.targets import parse_target, preflight
from moeload_bench.plots.panels import View, dress, finish, line
from moeload_bench.plots.style import GREY, MARKERS, PALETTE, log_axis, panels, say, style
from moeload_bench.scoring.floors import FLOOR_METRICS, floors_from, window_starts
from moeload_bench.scoring.scores import METRICS, horizon_rows, score_forecast
from moeload_bench.states.rule import StateRule, origins_every
from moeload_bench.traces.trace import Trace

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FloatArray = NDArray[np.float64]
FLOOR_LINE: Any = (0, (3, 2))


@dataclass(frozen=True, eq=False)
class TrainingErrors:
    """One forecaster's error at each origin and layer, [O, L], NaN where a forecast failed or a layer had no load."""

    forecaster: str
    metric: str
    horizon: int
    origin_O: NDArray[np.int64]
    error_OL: FloatArray
    failures: tuple[str, ...] = ()


def training_errors(
    trace: Trace, target: str, *, every: int, horizon: int, metric: str = "window_tv", level: Level = "process",
    seed: int = 0,
) -> TrainingErrors:  # fmt: skip
    """Ask a forecaster every so many steps for the next ``horizon`` and score each answer per layer.

    Nothing is fitted beforehand: a forecaster that needs the `train` runs of a suite cannot be drawn this way. Raises
    `NotFoundError` for a metric that needs quantiles or does not exist, `SuiteError` where no window fits,
    `TargetError` for the target; a failed forecast is a gap, with its reason in ``failures``.
    """
    names = [spec.name for spec in METRICS if not spec.needs_quantiles]
    if metric not in names:
        raise not_found("metric", metric, names)
    parsed = parse_target(target)
    preflight(parsed)
    origins = origins_every(trace.step_S, every, horizon)
    truth = Truth(trace, StateRule(), (horizon,))
    error_OL = np.full((len(origins), trace.num_layers), np.nan)
    failures = []
    with open_host(parsed, trace_info(trace, 0), seed=seed, level=level) as host:
        for o, answer in enumerate(replay(trace, host, origins, (horizon,))):
            if answer.forecast is None:
                failures.append(f"origin {answer.origin}: {answer.failure}")
                continue
            scores = score_forecast(
                answer.forecast, truth.window(answer.origin), (horizon,), stride=trace.meta.stride,
                last_share_LE=truth.last_share(answer.origin),
            )  # fmt: skip
            error_OL[o] = scores[metric][0]
    return TrainingErrors(target, metric, horizon, np.array(origins, dtype=np.int64), error_OL, tuple(failures))


def draw_training(view: View, errors: Sequence[TrainingErrors]) -> Figure:
    """One panel per layer: each forecaster's error against the origin, with the floor of the layer's state.

    Raises `PlotError` when the errors are not of one metric and horizon.
    """
    kinds = {(one.metric, one.horizon) for one in errors}
    if len(kinds) != 1:
        raise PlotError(f"error over training is drawn for one metric and horizon, got {sorted(kinds)}")
    metric, horizon = errors[0].metric, errors[0].horizon
    with style():
        figure, axes = panels(len(view.layers), height=2.6 if len(view.layers) <= 2 else 1.6)
        for ax, layer in zip(axes, view.layers, strict=True):
            known = [_curve(ax, i, one, layer) for i, one in enumerate(errors)]
            if not any(known):
                say(ax, "no load, or no forecast")
            _floor(ax, view, layer, metric, horizon)
        _scale(axes)
        for ax, layer in zip(axes, view.layers, strict=True):
            dress(ax, view, layer)
            ax.grid(axis="y")
        spec = next(spec for spec in METRICS if spec.name == metric)
        handles = [
            line(one.forecaster, PALETTE[i % len(PALETTE)], marker=MARKERS[i % len(MARKERS)], markersize=3)
            for i, one in enumerate(errors)
        ]
        if metric in FLOOR_METRICS and "load_half" in view.trace.columns:
            handles.append(line("floor_batch of the state", GREY, FLOOR_LINE))
        finish(figure, view, f"{metric} over the next {horizon} steps\n[{spec.unit}]", handles)
        return figure


def _curve(ax: Axes, i: int, one: TrainingErrors, layer: int) -> bool:
    error_O = one.error_OL[:, layer]
    often = max(1, len(error_O) // 12)
    ax.plot(
        one.origin_O, error_O, color=PALETTE[i % len(PALETTE)], marker=MARKERS[i % len(MARKERS)], markersize=3,
        markevery=(i * often // 4 % often, often), linewidth=0.9, label=one.forecaster,
    )  # fmt: skip
    return bool(np.isfinite(error_O).any())


def _floor(ax: Axes, view: View, layer: int, metric: str, horizon: int) -> None:
    """The floor that half batches give, one level for the layer's rows in each state."""
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


def _scale(axes: Sequence[Axes]) -> None:
    """Logarithmic where all that is drawn is positive and spans more than a factor of ten."""
    drawn = [np.asarray(curve.get_ydata(), dtype=np.float64) for ax in axes for curve in ax.get_lines()]
    values = np.concatenate([value[np.isfinite(value)] for value in drawn])
    if values.size and values.min() > 0 and values.max() > 10 * values.min():
        log_axis(axes[0].yaxis, float(values.min()), float(values.max()))
    elif values.size and values.min() >= 0:
        axes[0].set_ylim(bottom=0)

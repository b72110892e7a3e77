"""Figures of decisions: the re-plan curve, and device loads over time under a plan. Matplotlib is imported late."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from moeload_bench.placement import FloatArray
from moeload_bench.plots_style import (
    GREY,
    MARKERS,
    PALETTE,
    legend_above,
    new_figure,
    state_handles,
    state_strip,
    style,
)
from moeload_bench.policies import Comparison
from moeload_bench.replan import POLICIES, PolicyRun
from moeload_bench.states import StateLabels, StateRule

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

POINTS = 300
"""Device loads are drawn as means over as many stretches of the trace."""


def draw_policies(comparison: Comparison) -> Figure:
    """Step time saved against the re-planning interval; below, device loads without and with the best policy.

    The lower panels show the layer whose static layout is the most unbalanced, as means over short stretches of steps,
    with its state on top.
    """
    with style():
        figure = new_figure(5.2)
        grid = figure.add_gridspec(2, 2, height_ratios=(1.25, 1))
        curve = figure.add_subplot(grid[0, :])
        _curve(curve, comparison)
        left = figure.add_subplot(grid[1, 0])
        right = figure.add_subplot(grid[1, 1], sharey=left)
        _loads(left, right, comparison)
        title = f"{comparison.trace}, {comparison.forecaster}: saved after migration, against the static layout"
        legend_above(figure, title, [*curve.get_legend_handles_labels()[0], *state_handles()])
        return figure


def _curve(axes: Axes, comparison: Comparison) -> None:
    names = [name for name in POLICIES if name != "static"]
    for i, name in enumerate(names):
        runs = [run for run in comparison.runs if run.policy == name]
        if not runs:
            continue
        look: dict[str, Any] = {"color": PALETTE[i], "marker": MARKERS[i]}
        if name == "reserve_allocate":  # often equal to stable_only: let it show through
            look |= {"markerfacecolor": "none", "markersize": 7, "linestyle": ":"}
        if name == "oracle":
            look = {"color": GREY, "linestyle": (0, (5, 1.5))}
        axes.plot([run.every for run in runs], [run.saved_percent for run in runs], label=name, **look)
    axes.axhline(0, color="black", linewidth=0.8)
    best = comparison.best
    if best.policy != "static":
        axes.plot(best.every, best.saved_percent, "o", markersize=11, markerfacecolor="none", color="black")
    intervals = sorted({run.every for run in comparison.runs})
    axes.set_xscale("log")
    axes.set_xticks(intervals, [f"{k:,}" for k in intervals])
    axes.minorticks_off()
    axes.grid(axis="y")
    least = min(0.0, *(run.saved_percent for run in comparison.runs))
    most = max(0.1, *(run.saved_percent for run in comparison.runs))
    axes.set_ylim(max(least, -most) - 0.1 * most, 1.15 * most)
    axes.set_xlabel("k: steps between plans (on_change: steps planned for)")
    axes.set_ylabel("step time saved [%]")


def _loads(left: Axes, right: Axes, comparison: Comparison) -> None:
    simulation, best = comparison.simulation, comparison.best
    static = simulation.history("static", 1)
    per_layer = np.nanmean(
        np.stack(
            [simulation.device_loads(static, layer).max(axis=1) for layer in range(static[0].slot_expert_LR.shape[0])]
        ),
        axis=1,
    )
    layer = int(per_layer.argmax())
    chosen = simulation.history(best.policy, best.every, comparison.share_hat(best.policy, best.every))
    for axes, segments, title in (
        (left, static, "static layout"),
        (right, chosen, _title(best)),
    ):
        loads_SD = simulation.device_loads(segments, layer)
        step, mean = _stretches(loads_SD, simulation.stride)
        for device in range(mean.shape[1]):
            axes.plot(step, mean[:, device], color=PALETTE[device % len(PALETTE)], linewidth=0.7, alpha=0.8)
        axes.axhline(1, color="black", linewidth=0.6)
        state_strip(axes, _spans(simulation.transient_SL[:, layer], simulation.stride))
        axes.set_xlim(0, len(loads_SD) * simulation.stride)
        axes.set_title(title, pad=13)
        axes.set_xlabel("training step")
        axes.grid(axis="y")
    right.tick_params(labelleft=False)
    left.set_ylabel(f"layer {layer}: device load / mean")


def _title(run: PolicyRun) -> str:
    return run.policy if run.policy == "static" else f"best: {run.policy}, k = {run.every:,}"


def _stretches(loads_SD: FloatArray, stride: int) -> tuple[FloatArray, FloatArray]:
    """Middle step and mean of each stretch; a step without load counts for nothing."""
    size = max(1, len(loads_SD) // POINTS)
    starts = np.arange(0, len(loads_SD), size)
    valid = ~np.isnan(loads_SD)
    total = np.add.reduceat(np.where(valid, loads_SD, 0.0), starts, axis=0)
    count = np.add.reduceat(valid.astype(np.float64), starts, axis=0)
    mean = np.divide(total, count, out=np.full(total.shape, np.nan), where=count > 0)
    return np.asarray((starts + size / 2) * stride, dtype=np.float64), mean


def _spans(transient_S: Any, stride: int) -> list[tuple[float, float, Any]]:
    labels = StateLabels(StateRule(), stride, transient_S[:, None], np.empty((0, 1)), np.empty((0, 1)))
    return [(span.start * stride, span.stop * stride, span.state) for span in labels.spans(0)]

"""Figures of decisions: the re-plan curve, and device loads over time under a plan. Matplotlib is imported late."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from moeload_bench.arrays import FloatArray
from moeload_bench.evaluation.replanning import Comparison
from moeload_bench.placement.replan import POLICIES, PolicyRun, Simulation
from moeload_bench.states.rule import spans_of
from moeload_bench.style import (
    GREY,
    MARKERS,
    PALETTE,
    legend_above,
    legend_line,
    new_figure,
    state_handles,
    state_strip,
    style,
)
from moeload_bench.traces.means import ratio_of
from moeload_bench.traces.trace import Trace, layer_names

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

POINTS = 300
"""The number of stretches of the trace; device loads are drawn as means over them."""
BREAK_EVEN: Any = {"color": GREY, "linestyle": (0, (1, 1.5)), "linewidth": 1.0}
BUSIEST, BAND = "busiest device", "from the least to the most loaded device"


def draw_policies(comparison: Comparison, trace: Trace) -> Figure:
    """Draw the step time saved against the re-planning interval; below, device loads without and with the best policy.

    The lower panels show the layer whose static layout is the most unbalanced, as means over short stretches of steps,
    with its state on top. ``trace`` is the one that was compared: its layers' names and steps are shown.
    """
    with style():
        figure = new_figure(5.2)
        grid = figure.add_gridspec(2, 2, height_ratios=(1.25, 1))
        curve = figure.add_subplot(grid[0, :])
        _curve(curve, comparison)
        left = figure.add_subplot(grid[1, 0])
        right = figure.add_subplot(grid[1, 1], sharey=left)
        handles = _loads(left, right, comparison, trace)
        title = f"{comparison.trace}, {comparison.forecaster}: saved after migration, against the static layout"
        legend_above(figure, title, [*curve.get_legend_handles_labels()[0], *handles])
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
    intervals = sorted({run.every for run in comparison.runs})
    axes.set_xscale("log")
    if best.policy != "static":
        axes.plot(
            best.every,
            best.saved_percent,
            "o",
            markersize=11,
            markerfacecolor="none",
            color="black",
            label=_title(best),
        )
    if best.break_even_steps is not None:
        shown = min(max(best.break_even_steps, intervals[0] / 100), 100 * intervals[-1])
        axes.set_xlim(min(shown, intervals[0]) / 1.3, max(shown, intervals[-1]) * 1.3)
        axes.axvline(best.break_even_steps, **BREAK_EVEN, label=f"its break-even: {best.break_even_steps:,.1f} steps")
    axes.set_xticks(intervals, [f"{k:,}" for k in intervals])
    axes.minorticks_off()
    axes.grid(axis="y")
    least = min(0.0, *(run.saved_percent for run in comparison.runs))
    most = max(0.1, *(run.saved_percent for run in comparison.runs))
    axes.set_ylim(max(least, -most) - 0.1 * most, 1.15 * most)
    axes.set_xlabel("k: steps between plans (on_change: steps planned for)")
    axes.set_ylabel("step time saved [%]")


def _loads(left: Axes, right: Axes, comparison: Comparison, trace: Trace) -> list[Any]:
    """Draw the lower panels and return their legend entries."""
    from matplotlib.patches import Patch
    from matplotlib.ticker import MaxNLocator

    simulation, best = comparison.simulation, comparison.best
    first, stride = int(trace.step_S[0]), simulation.stride
    static = simulation.history("static", 1)
    layer = _most_unbalanced(simulation)
    chosen = simulation.history(best.policy, best.every, comparison.share_hat(best.policy, best.every))
    with_states = any(run.policy == "stable_only" for run in comparison.runs)
    for axes, segments, title in ((left, static, "static layout"), (right, chosen, _title(best))):
        loads_SD = simulation.device_loads(segments, layer)
        step, mean_N2 = _stretches(np.stack([loads_SD.min(axis=1), loads_SD.max(axis=1)], axis=1), stride)
        axes.fill_between(first + step, mean_N2[:, 0], mean_N2[:, 1], color=GREY, alpha=0.3, linewidth=0)
        axes.plot(first + step, mean_N2[:, 1], color="black", linewidth=0.8, label=BUSIEST)
        axes.axhline(1, color=GREY, linewidth=0.6)
        if with_states:
            spans = spans_of(simulation.transient_SL[:, layer])
            state_strip(axes, [(first + a * stride, first + b * stride, state) for a, b, state in spans])
        axes.set_xlim(first, first + len(loads_SD) * stride)
        axes.set_title(title, pad=13)
        axes.set_xlabel("training step")
        axes.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10], integer=True, prune="upper"))
        axes.grid(axis="y")
    right.tick_params(labelleft=False)
    left.set_ylabel(f"layer {layer_names(trace)[layer]}: device load / mean\n(busiest - 1: MaxVio)")
    band = Patch(facecolor=GREY, alpha=0.3, linewidth=0, label=BAND)
    return [legend_line(BUSIEST, "black", linewidth=0.8), band, *(state_handles() if with_states else [])]


def _most_unbalanced(simulation: Simulation) -> int:
    """Return the layer whose static layout loads its busiest device most on average; skip layers without load."""
    peak_SL = simulation.static_SL
    count_L = np.isfinite(peak_SL).sum(axis=0)
    return int(np.where(count_L > 0, np.nansum(peak_SL, axis=0) / np.maximum(count_L, 1), -np.inf).argmax())


def _title(run: PolicyRun) -> str:
    return run.policy if run.policy == "static" else f"best: {run.policy}, k = {run.every:,}"


def _stretches(loads_SD: FloatArray, stride: int) -> tuple[FloatArray, FloatArray]:
    """Return middle step and mean of each stretch; steps without load are skipped."""
    size = max(1, len(loads_SD) // POINTS)
    starts = np.arange(0, len(loads_SD), size)
    valid = ~np.isnan(loads_SD)
    total = np.add.reduceat(np.where(valid, loads_SD, 0.0), starts, axis=0)
    count = np.add.reduceat(valid.astype(np.float64), starts, axis=0)
    return np.asarray((starts + size / 2) * stride, dtype=np.float64), ratio_of(total, count)

"""Figures of one trace: heat map, shares with their states, sliding variance and range, and the state rule at work.

Axis letters: S rows, L MoE layers, E experts, N bins.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from moeload_bench.arrays import FloatArray, IntArray
from moeload_bench.errors import not_found
from moeload_bench.plots.panels import (
    STEP_LABEL,
    Binned,
    View,
    colour_bar,
    colour_key,
    decorate_panel,
    finish_figure,
    mark_shifts,
    title_of,
    view_handles,
)
from moeload_bench.states.drift import sliding_range, sliding_variance
from moeload_bench.states.rule import StateLabels
from moeload_bench.style import (
    GREY,
    MAX_LEGEND_EXPERTS,
    STATE_COLOURS,
    STATE_HATCHES,
    legend_above,
    legend_line,
    new_figure,
    ordered_colours,
    panels,
    style,
    write_remark,
)
from moeload_bench.traces.trace import shares

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DRIFT_TICKS = (0, 0.01, 0.04, 0.08, 0.2, 0.4, 0.6, 0.8, 1)
"""Ticks on a square-root scale: small drifts stay distinct, and none is lost."""
HIGH: Any = (0, (6, 2))
LOW: Any = (0, (1, 1))

Statistic = Literal["variance", "range"]

MOST = 4.0
"""The most powers of two around an even load that the heat map distinguishes."""
LEAST_VARIATION = 1e-18
"""What rounding leaves as the variation of a constant share."""
EVEN: Any = (0, (4, 3))
PIXELS = 1.0
"""Everything below this level is drawn as pixels if there are many experts."""
SLIDING: dict[Statistic, tuple[Callable[[FloatArray, int], FloatArray], str]] = {
    "variance": (sliding_variance, "variance of the share [fraction²]"),
    "range": (sliding_range, "range of the share [fraction]"),
}


def draw_heatmap(view: View) -> Figure:
    """Draw every expert's load over training, one panel per layer: load / even load, on a logarithmic colour scale.

    White is an even load (1), black an expert without a token in the bin, hatched a layer without load.
    """
    with style():
        E = view.trace.num_experts
        relative = [view.binned(_share(view, layer) * E).mean_NX for layer in view.layers]
        norm, colours = _relative_scale(relative)
        figure, axes = panels(len(view.layers), height=1.0 + 0.008 * E)
        image: Any = None
        for ax, layer, relative_NE in zip(axes, view.layers, relative, strict=True):
            image = _heat(ax, view, relative_NE, norm, colours)
            decorate_panel(ax, view, layer)
        bar = colour_bar(figure, axes, image, "load / even load (the largest - 1: MaxVio)", extend="max")
        ticks = range(round(norm.vmin), round(norm.vmax) + 1)
        bar.set_ticks(list(ticks), labels=[f"1/{2**-t}" if t < 0 else str(2**t) for t in ticks])
        finish_figure(figure, view, "expert", _heat_handles(relative), f", {_each(view)}")
        return figure


def _heat(ax: Axes, view: View, relative_NE: FloatArray, norm: Any, colours: Any) -> Any:
    ax.patch.set(hatch="xxxxx", edgecolor="#AAAAAA", linewidth=0)
    dead_NE = relative_NE == 0
    logged_NE = np.log2(np.where(dead_NE | np.isnan(relative_NE), 1.0, relative_NE))
    logged_NE = np.where(dead_NE, norm.vmin - 1.0, np.maximum(logged_NE, norm.vmin))
    first, end = view.span
    E = relative_NE.shape[1]
    ax.set_yticks(range(0, E, max(1, E // 4)))
    return ax.imshow(
        np.where(np.isnan(relative_NE), np.nan, logged_NE).T, extent=(first, end, E - 0.5, -0.5),
        aspect="auto", interpolation="nearest", cmap=colours, norm=norm,
    )  # fmt: skip


def _relative_scale(relative: Sequence[FloatArray]) -> tuple[Any, Any]:
    """Return colours of log2(load / even load): white at 0, each side up to the value that only 1 % of cells exceed."""
    from matplotlib import colormaps
    from matplotlib.colors import TwoSlopeNorm

    logged = np.log2(np.concatenate([mean[mean > 0] for mean in relative]))
    low, high = np.quantile(logged, [0.01, 0.99]) if logged.size else (-1.0, 1.0)
    norm = TwoSlopeNorm(0.0, vmin=max(np.floor(min(low, -1.0)), -MOST), vmax=min(np.ceil(max(high, 1.0)), MOST))
    return norm, colormaps["RdBu_r"].with_extremes(under="black", bad=(0, 0, 0, 0))


def _heat_handles(relative: Sequence[FloatArray]) -> list[Any]:
    from matplotlib.patches import Patch

    dead = Patch(facecolor="black", label="expert without a token")
    empty = Patch(facecolor="white", edgecolor="#AAAAAA", hatch="xxxxx", linewidth=0, label="layer without load")
    patches = ((dead, any((mean == 0).any() for mean in relative)), (empty, any(np.isnan(m).any() for m in relative)))
    return [patch for patch, exists in patches if exists]


def draw_shares(view: View) -> Figure:
    """Draw each expert's share of a layer's tokens over training, under a strip that shows the layer's state.

    Lines are means of the steps of a bin; the band around them goes from the smallest to the largest single step (for
    up to MAX_LEGEND_EXPERTS experts). The dashed line is an even load.
    """
    with style():
        E = view.trace.num_experts
        figure, axes = panels(len(view.layers), height=2.6 if len(view.layers) <= 2 else 1.7)
        for ax, layer in zip(axes, view.layers, strict=True):
            share_SE = _share(view, layer)
            bins = view.binned(share_SE)
            if np.isnan(bins.mean_NX).all():
                write_remark(ax, "no load")
            else:
                _expert_lines(ax, bins, _order(share_SE), band=True)
            ax.axhline(1 / E, color=GREY, linestyle=EVEN, linewidth=0.8, zorder=3)
            decorate_panel(ax, view, layer)
        axes[0].set_ylim(bottom=0)
        band = ", shaded from the least to the largest step" if E <= MAX_LEGEND_EXPERTS and view.bin_rows() > 1 else ""
        handles = [*_expert_key(figure, axes, E), legend_line("even load, 1/E", GREY, EVEN)]
        note = f": {_each(view)}{band}"
        finish_figure(figure, view, "share of the layer's tokens [fraction]", handles, note)
        return figure


def draw_sliding(view: View, statistic: Statistic = "variance", window: int = 100) -> Figure:
    """Draw the paper's sliding variance or range of each expert's share over the ``window`` rows before each row.

    The axis is logarithmic; zeros are not drawn. Raise `TraceError` for a window below 1 row, `NotFoundError` for
    another statistic.
    """
    if statistic not in SLIDING:
        raise not_found("statistic", statistic, SLIDING)
    compute, unit = SLIDING[statistic]
    with style():
        figure, axes = panels(len(view.layers), height=2.6 if len(view.layers) <= 2 else 1.6)
        for ax, layer in zip(axes, view.layers, strict=True):
            share_S1E = shares(view.trace.load_SLE[:, layer : layer + 1])
            bins = view.binned(compute(share_S1E, window)[:-1, 0][view.rows])
            ax.set_yscale("log", nonpositive="mask")
            if (bins.mean_NX > LEAST_VARIATION).any():
                _expert_lines(ax, bins, _order(share_S1E[view.rows, 0]), band=False)
            else:
                write_remark(ax, "no variation" if np.isfinite(bins.mean_NX).any() else _no_window(view, window))
            decorate_panel(ax, view, layer)
            ax.grid(axis="y")
        if not any(ax.get_lines() for ax in axes):
            for ax in axes:
                ax.tick_params(axis="y", which="both", left=False, labelleft=False)
                ax.grid(visible=False)
        over = f": {statistic} over windows of {window * view.trace.meta.stride} steps"
        finish_figure(figure, view, unit, _expert_key(figure, axes, view.trace.num_experts), over)
        return figure


def _no_window(view: View, window: int) -> str:
    """Say why no row shown has a value of a statistic over the ``window`` rows before it."""
    if view.trace.steps < window:
        return f"shorter than the window of {window} rows"
    return f"no {window} rows before these steps" if view.rows.stop <= window else "no window with load"


def _share(view: View, layer: int) -> FloatArray:
    """Return the shares of one layer in the rows shown, [S, E]."""
    return shares(view.trace.load_SLE[view.rows, layer])


def _order(share_SE: FloatArray) -> IntArray:
    """Return the experts from the least to the most loaded over the rows shown."""
    return np.asarray(np.argsort(np.nan_to_num(share_SE).sum(axis=0), kind="stable"), dtype=np.int64)


def _expert_lines(ax: Axes, bins: Binned, order_E: IntArray, band: bool) -> None:
    """Draw one line per expert; as pixels if there are many experts, because a file would hold megabytes of lines."""
    as_vectors = len(order_E) <= MAX_LEGEND_EXPERTS
    colours = ordered_colours(order_E)
    for e in order_E.tolist():
        if band and as_vectors:
            ax.fill_between(
                bins.middle_N, bins.least_NX[:, e], bins.largest_NX[:, e], color=colours[e], alpha=0.18, linewidth=0
            )
        look: Any = {"linewidth": 0.9} if as_vectors else {"linewidth": 0.5, "zorder": PIXELS - 0.2}
        ax.plot(bins.middle_N, bins.mean_NX[:, e], color=colours[e], label=f"expert {e}", **look)
    if not as_vectors:
        ax.set_rasterization_zorder(PIXELS)


def _expert_key(figure: Figure, axes: Sequence[Axes], E: int) -> list[Any]:
    """Return legend entries, or add a colour bar by rank if there are many experts."""
    return colour_key(figure, axes, [f"expert {e}" for e in range(E)], "expert, least to most loaded in its layer")


def _each(view: View) -> str:
    rows = view.bin_rows()
    return "each step recorded" if rows == 1 else f"means of {rows * view.trace.meta.stride} steps"


def draw_states(view: View) -> Figure:
    """Draw the drift of each layer with the rule's two thresholds, and below it the state of every layer.

    The bar in a layer's strip covers the band of onsets that other thresholds give; its tick is the onset.
    """
    with style():
        L = len(view.layers)
        figure = new_figure(2.9 + 0.16 * L)
        top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=[1.9, 0.16 * L + 0.1])
        handles = []
        if view.labels is None:
            write_remark(top, "no states")
        else:
            handles = _drift(figure, top, view, view.labels)
            for place, layer in enumerate(view.layers):
                _row(bottom, view, view.labels, layer, place)
            handles.append(legend_line("onset, with its band", "black", marker="|", markersize=7))
        for ax in (top, bottom):
            mark_shifts(ax, view)
        bottom.set_yticks(range(L), [view.name(layer).removeprefix("layer ") for layer in view.layers])
        bottom.tick_params(axis="y", length=0, labelsize=5.5 if L > 12 else 7)
        bottom.set(ylim=(L - 0.5, -0.5), ylabel="layer", xlabel=STEP_LABEL)
        top.set(xlim=view.span, ylabel="drift X [fraction of tokens]")
        legend_above(figure, title_of(view), [*handles, *view_handles(view)])
        return figure


def _drift(figure: Figure, ax: Axes, view: View, labels: StateLabels) -> list[Any]:
    colours = ordered_colours(np.arange(len(view.layers)))
    for colour, layer in zip(colours, view.layers, strict=True):
        bins = view.binned(labels.drift_SL[view.rows, layer], across=1)
        ax.plot(bins.middle_N, bins.mean_NX, color=colour, linewidth=0.8, label=view.name(layer))
    ax.set_yscale("function", functions=(lambda x: np.sqrt(np.maximum(x, 0.0)), np.square))
    top = max(2.0 * labels.rule.high, float(np.nanmax(labels.drift_SL[view.rows], initial=0.0)))
    ax.set_ylim(0.0, 1.05 * top)
    ax.set_yticks([t for t in DRIFT_TICKS if t <= top], [f"{t:g}" for t in DRIFT_TICKS if t <= top])
    ax.axhline(labels.rule.high, color=GREY, linestyle=HIGH)
    ax.axhline(labels.rule.low, color=GREY, linestyle=LOW)
    return [
        *colour_key(figure, [ax], [view.name(layer) for layer in view.layers], "layer, in the model's order"),
        legend_line(f"above {labels.rule.high:g}: transient", GREY, HIGH),
        legend_line(f"{labels.rule.hold} steps below {labels.rule.low:g}: stable", GREY, LOW),
    ]


def _row(ax: Axes, view: View, labels: StateLabels, layer: int, place: int) -> None:
    for start, stop, state in view.spans(layer):
        ax.broken_barh(
            [(start, stop - start)], (place - 0.4, 0.8), facecolor=STATE_COLOURS[state], edgecolor="white",
            hatch=STATE_HATCHES[state], linewidth=0,
        )  # fmt: skip
    first, stride, end = int(view.trace.step_S[0]), labels.stride, view.trace.steps
    onset, low, high = (int(row) for row in (labels.onset_L[layer], *labels.onset_band_L2[layer]))
    if low >= 0:
        band = [first + low * stride, first + (high if high >= 0 else end) * stride]
        ax.plot(band, [place, place], color="black", linewidth=1.0)
    if onset >= 0:
        ax.plot([first + onset * stride], [place], color="black", marker="|", markersize=6, linestyle="none")

"""The figure that shows the state rule at work: drift against its thresholds, and the labels of every layer.

Axis letters: S rows, L MoE layers, N bins.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from moeload_bench.plots.panels import STEP_LABEL, colour_key, line, mark_shifts, title_of, view_handles
from moeload_bench.plots.style import (
    GREY,
    STATE_COLOURS,
    STATE_HATCHES,
    legend_above,
    new_figure,
    ordered_colours,
    say,
    style,
)
from moeload_bench.plots.view import View
from moeload_bench.states.rule import StateLabels

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DRIFT_TICKS = (0, 0.01, 0.04, 0.08, 0.2, 0.4, 0.6, 0.8, 1)
"""On a square-root scale: small drifts are told apart, and none is lost."""
HIGH: Any = (0, (6, 2))
LOW: Any = (0, (1, 1))


def draw_states(view: View) -> Figure:
    """The drift of each layer with the rule's two thresholds, and below it the state of every layer.

    The bar in a layer's strip reaches over the band of onsets that other thresholds give, its tick is the onset.
    """
    with style():
        L = len(view.layers)
        figure = new_figure(2.9 + 0.16 * L)
        top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=[1.9, 0.16 * L + 0.1])
        handles = []
        if view.labels is None:
            say(top, "no states")
        else:
            handles = _drift(figure, top, view, view.labels)
            for place, layer in enumerate(view.layers):
                _row(bottom, view, view.labels, layer, place)
            handles.append(line("onset, with its band", "black", marker="|", markersize=7))
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
        line(f"above {labels.rule.high:g}: transient", GREY, HIGH),
        line(f"{labels.rule.hold} steps below {labels.rule.low:g}: stable", GREY, LOW),
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

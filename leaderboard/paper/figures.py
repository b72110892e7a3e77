"""The counterparts of the paper's figures, drawn from a trace and its scores (extra `plot`)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pandas as pd

from leaderboard.paper.measuring import PREDICTORS, RATES, in_blocks
from moeload_bench import style
from moeload_bench.plots.panels import STEP_LABEL, TITLE_PAD, View, title_of, view_trace
from moeload_bench.plots.traces import draw_shares, draw_sliding
from moeload_bench.states.rule import state_names
from moeload_bench.traces.trace import Trace, layer_names

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FLOOR_DASHES: Any = (0, (3, 2))
BLOCKS: Any = {"linewidth": 3.5, "alpha": 0.35}
"""Wide and light, so that the sliding curves are seen on them."""


def draw_figures(trace: Trace, scores: pd.DataFrame) -> Iterator[tuple[str, Figure]]:
    """Yield (name, figure) in the paper's order, one at a time."""
    names = layer_names(trace)
    view = view_trace(trace)
    yield "loads", draw_shares(view_trace(trace, list(dict.fromkeys((names[0], names[len(names) // 2])))))
    yield "variance-10", draw_sliding(view, "variance", 10)
    yield "variance-100", draw_sliding(view, "variance", 100)
    yield "range-100", draw_sliding(view, "range", 100)
    yield "errors", draw_errors(view, scores)


def draw_errors(view: View, scores: pd.DataFrame) -> Figure:
    """Draw the errors of the paper's forecasters, means over layers: a row per horizon, a column per reading.

    Lines are sliding errors at their origins, wide ones those in blocks over their windows, dashed ones the floors.
    """
    looks = style.forecaster_looks(PREDICTORS)
    with style.style():
        panels = [(horizon, metric) for horizon in sorted(scores["horizon"].unique()) for metric in RATES]
        figure, axes = style.panels(len(panels), height=1.9, columns=len(RATES), share_y=False)
        for ax, (horizon, metric) in zip(axes, panels, strict=True):
            shown = scores[scores["horizon"] == horizon]
            blocks = in_blocks(shown, int(view.trace.step_S[0]))
            for i, (name, look) in enumerate(looks.items()):
                line, block = (rows[rows["forecaster"] == name] for rows in (shown, blocks))
                ax.hlines(100 * block[metric], block["origin"], block["origin"] + horizon, look["color"], **BLOCKS)
                ax.plot(line["origin"], 100 * line[metric], linewidth=0.9, markersize=3, markevery=(3 * i, 10),
                        label=name, **look)  # fmt: skip
            _add_states(ax, view, shown, metric)
            style.log_if_wide([ax])
            ax.set_title(f"{metric}, next {horizon:,} steps", pad=TITLE_PAD)
            ax.set_xlim(*view.span)
            ax.grid(axis="y")
        handles = [style.legend_line(f"{name}, sliding", markersize=3, **look) for name, look in looks.items()]
        handles.append(style.legend_line("in blocks, over the window", style.GREY, **BLOCKS))
        handles.append(style.legend_line("floor_batch of the state", style.GREY, FLOOR_DASHES))
        figure.supxlabel(STEP_LABEL)
        figure.supylabel("error, mean over MoE layers [%]")
        style.legend_above(figure, title_of(view), [*handles, *style.state_handles()], columns=4)
        return figure


def _add_states(ax: Axes, view: View, shown: pd.DataFrame, metric: str) -> None:
    """Add the state of the run above the panel, and each state's floor where it holds."""
    floors = shown.groupby("state")[f"floor_batch.{metric}"].first()
    spans = [span for span in run_spans(view) if span[2] != "mixed"]
    for start, stop, state in spans:
        ax.plot([start, stop], [100 * floors.get(state, float("nan"))] * 2, color=style.GREY, linestyle=FLOOR_DASHES)
    style.state_strip(ax, spans)


def run_spans(view: View) -> Iterator[tuple[float, float, str]]:
    """Yield (first step, end, state) of the run as a whole: mixed where layers disagree; nothing without labels."""
    names = pd.Series(state_names(view.labels) if view.labels is not None else [], dtype=object)
    first, stride = int(view.trace.step_S[0]), view.trace.meta.stride
    for _, span in names.groupby((names != names.shift()).cumsum()):
        yield first + int(span.index[0]) * stride, first + (int(span.index[-1]) + 1) * stride, span.iloc[0]

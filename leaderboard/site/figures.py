"""Figures of a trace as PNG, once for light and once for dark pages; the same input gives the same bytes."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any

from moeload_bench.plots import draw_heatmap, draw_states, view_trace
from moeload_bench.style import style
from moeload_bench.traces.trace import Trace

PAPER, INK, SOFT, LINE = "#14191b", "#e6eaeb", "#a3aeb2", "#5a666b"
"""The dark page's colours (static/site.css)."""
DPI = 130
KINDS = (("heatmap", draw_heatmap), ("states", draw_states))


def trace_figures(trace: Trace) -> Iterator[tuple[str, bytes]]:
    """(`heatmap.png`, bytes), (`heatmap-dark.png`, bytes), and the same for `states`."""
    view = view_trace(trace)
    for kind, draw in KINDS:
        figure = draw(view)
        yield f"{kind}.png", png(figure, "white")
        figure.set_layout_engine("none")  # dark colours take no other place: the panels stay where they are
        darken(figure)
        yield f"{kind}-dark.png", png(figure, PAPER)


def png(figure: Any, paper: str) -> bytes:
    """Return the figure without date or program version."""
    buffer = io.BytesIO()
    with style():
        figure.savefig(buffer, format="png", dpi=DPI, facecolor=paper, metadata={"Software": None})
    return buffer.getvalue()


def darken(figure: Any) -> None:
    """Text, frames, ticks and black or grey lines become light; what colours stand for stays as it is."""
    from matplotlib.axes import Axes
    from matplotlib.colors import to_hex
    from matplotlib.lines import Line2D
    from matplotlib.text import Text

    for text in figure.findobj(Text):
        if text.get_bbox_patch() is not None:
            text.get_bbox_patch().set_facecolor(PAPER)
        text.set_color(INK)
    for line in figure.findobj(Line2D):
        if to_hex(line.get_color()) in ("#000000", "#595959"):
            line.set_color(INK if to_hex(line.get_color()) == "#000000" else SOFT)
            line.set_markeredgecolor(INK)
    for ax in figure.findobj(Axes):
        if not ax.images:
            ax.set_facecolor(PAPER)
        ax.tick_params(colors=SOFT, which="both")
        for spine in ax.spines.values():
            spine.set_edgecolor(LINE)

"""Parts that figures over training steps have in common: axes, strips, planned shifts, keys."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from moeload_bench.plots.style import (
    FEW,
    PALETTE,
    columns_of,
    legend_above,
    ordered_colours,
    state_handles,
    state_strip,
)
from moeload_bench.plots.view import View

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

STEP_LABEL = "training step"
TITLE_PAD = 9
"""Points between a panel and its title: the room of the state strip."""
SHIFT: Any = {"color": "black", "linestyle": (0, (1, 1.5)), "linewidth": 1.0}


def dress(ax: Axes, view: View, layer: int) -> None:
    """Title, state strip, planned shifts and the range of steps of a layer's panel."""
    from matplotlib.ticker import MaxNLocator

    ax.set_title(view.name(layer), pad=TITLE_PAD)
    state_strip(ax, view.spans(layer))
    mark_shifts(ax, view)
    ax.set_xlim(*view.span)
    across = columns_of(len(view.layers))
    prune = "upper" if across > 1 else None  # a label at a panel's end would touch that at its neighbour's start
    count = {1: 8, 2: 6, 3: 5}.get(across, 3)
    ax.xaxis.set_major_locator(MaxNLocator(count, steps=[1, 2, 5, 10], integer=True, prune=prune))


def mark_shifts(ax: Axes, view: View) -> None:
    """A dotted line at each shift that the recipe planned."""
    for step in view.shifts():
        ax.axvline(step, **SHIFT, zorder=4, gid="shift")


def finish(figure: Figure, view: View, y_label: str, handles: Sequence[Any], note: str = "") -> None:
    """Labels, title and one legend for all panels: what the figure shows, the states, the planned shifts."""
    figure.supxlabel(STEP_LABEL)
    figure.supylabel(y_label)
    legend_above(figure, title_of(view) + note, [*handles, *view_handles(view)])


def title_of(view: View) -> str:
    """The trace, and why it has no states where it has none."""
    trace = view.trace
    without = "" if view.labels else f" (states are not defined at a stride of {trace.meta.stride} steps)"
    return f"{trace.id}{without}"


def view_handles(view: View) -> list[Any]:
    """Legend entries of states and planned shifts, as far as there are any."""
    shifts = [line("planned shift", **SHIFT)] if view.shifts() else []
    return [*(state_handles() if view.labels else []), *shifts]


def line(label: str, color: str, linestyle: Any = "-", **more: Any) -> Any:
    """A legend entry."""
    from matplotlib.lines import Line2D

    return Line2D([], [], color=color, linestyle=linestyle, label=label, **more)


def colour_key(figure: Figure, axes: Sequence[Axes], names: Sequence[str], ordered: str) -> list[Any]:
    """What the colours of `ordered_colours` mean: legend entries while they are few, else a colour bar is added."""
    count = len(names)
    if count <= FEW:
        return [line(name, PALETTE[i]) for i, name in enumerate(names)]
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import BoundaryNorm, ListedColormap

    bounds = np.arange(count + 1) - 0.5
    colours = ListedColormap(ordered_colours(np.arange(count)))
    mappable = ScalarMappable(BoundaryNorm(bounds.tolist(), count), colours)
    bar = colour_bar(figure, axes, mappable, ordered)
    bar.set_ticks([0, count - 1], labels=["1", str(count)])
    return []


def colour_bar(figure: Figure, axes: Sequence[Axes], mappable: Any, label: str, **more: Any) -> Any:
    """A colour bar at the right of all panels, about three inches high at most."""
    shrink = min(1.0, 3.2 / figure.get_figheight()) if len(axes) > 1 else 1.0
    bar = figure.colorbar(mappable, ax=list(axes), pad=0.01, aspect=25, fraction=0.04, shrink=shrink, **more)
    bar.ax.minorticks_off()
    bar.set_label(label)
    return bar

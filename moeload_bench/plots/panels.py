"""What figures over training steps share: the view of a trace that they show, and axes, strips, shifts, colour keys.

A view says which layers and steps are shown, with their states, at a resolution that print can hold.
Axis letters: S rows, L MoE layers, E experts, N bins.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from moeload_bench.arrays import FloatArray, IntArray
from moeload_bench.errors import PlotError, TraceError, not_found
from moeload_bench.states.rule import State, StateLabels, trace_labels
from moeload_bench.states.shifts import planned_shifts
from moeload_bench.style import (
    MAX_LEGEND_EXPERTS,
    PALETTE,
    columns_of,
    legend_above,
    legend_line,
    ordered_colours,
    state_handles,
    state_strip,
)
from moeload_bench.traces.means import ratio_of
from moeload_bench.traces.trace import Trace, layer_names

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BINS = {1: 400, 2: 240, 3: 160, 4: 120}
"""The most points along the step axis, by the number of panels side by side: about 80 per printed inch."""

STEP_LABEL = "training step"
TITLE_PAD = 9
"""Points between a panel and its title: space for the state strip."""
SHIFT: Any = {"color": "black", "linestyle": (0, (1, 1.5)), "linewidth": 1.0}


def decorate_panel(ax: Axes, view: View, layer: int) -> None:
    """Add title, state strip, planned shifts and the range of steps to a layer's panel."""
    from matplotlib.ticker import MaxNLocator

    ax.set_title(view.name(layer), pad=TITLE_PAD)
    state_strip(ax, view.spans(layer))
    mark_shifts(ax, view)
    ax.set_xlim(*view.span)
    across = columns_of(len(view.layers))
    prune = "upper" if across > 1 else None  # a label at a panel's end would touch the one at its neighbour's start
    count = {1: 8, 2: 6, 3: 5}.get(across, 3)
    ax.xaxis.set_major_locator(MaxNLocator(count, steps=[1, 2, 5, 10], integer=True, prune=prune))


def mark_shifts(ax: Axes, view: View) -> None:
    """Draw a dotted line at each shift that the recipe planned."""
    for step in view.shifts():
        ax.axvline(step, **SHIFT, zorder=4, gid="shift")


def finish_figure(figure: Figure, view: View, y_label: str, handles: Sequence[Any], note: str = "") -> None:
    """Add labels, title and one legend for all panels: what the figure shows, the states, the planned shifts."""
    figure.supxlabel(STEP_LABEL)
    figure.supylabel(y_label)
    legend_above(figure, title_of(view) + note, [*handles, *view_handles(view)])


def title_of(view: View) -> str:
    """Return the trace's name and, if it has no states, why not."""
    trace = view.trace
    without = "" if view.labels else f" (states are not defined at a stride of {trace.meta.stride} steps)"
    return f"{trace.id}{without}"


def view_handles(view: View) -> list[Any]:
    """Return the legend entries of states and planned shifts that occur."""
    shifts = [legend_line("planned shift", **SHIFT)] if view.shifts() else []
    return [*(state_handles() if view.labels else []), *shifts]


def colour_key(figure: Figure, axes: Sequence[Axes], names: Sequence[str], ordered: str) -> list[Any]:
    """Explain the colours of `ordered_colours`: return legend entries if they are few, else add a colour bar."""
    count = len(names)
    if count <= MAX_LEGEND_EXPERTS:
        return [legend_line(name, PALETTE[i]) for i, name in enumerate(names)]
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import BoundaryNorm, ListedColormap

    bounds = np.arange(count + 1) - 0.5
    colours = ListedColormap(ordered_colours(np.arange(count)))
    mappable = ScalarMappable(BoundaryNorm(bounds.tolist(), count), colours)
    bar = colour_bar(figure, axes, mappable, ordered)
    bar.set_ticks([0, count - 1], labels=["1", str(count)])
    return []


def colour_bar(figure: Figure, axes: Sequence[Axes], mappable: Any, label: str, **more: Any) -> Any:
    """Add a colour bar at the right of all panels, at most about three inches high."""
    shrink = min(1.0, 3.2 / figure.get_figheight()) if len(axes) > 1 else 1.0
    bar = figure.colorbar(mappable, ax=list(axes), pad=0.01, aspect=25, fraction=0.04, shrink=shrink, **more)
    bar.ax.minorticks_off()
    bar.set_label(label)
    return bar


class Binned(NamedTuple):
    """Bins of rows: ``edge_N1`` and ``middle_N`` in training steps; mean, smallest and largest value [N, ...]."""

    edge_N1: FloatArray
    middle_N: FloatArray
    mean_NX: FloatArray
    least_NX: FloatArray
    largest_NX: FloatArray


@dataclass(frozen=True, eq=False)
class View:
    """Layers and rows of a trace. ``labels`` are those of the whole trace, None if the rule cannot label it."""

    trace: Trace
    layers: tuple[int, ...]
    rows: slice
    labels: StateLabels | None

    @property
    def step_S(self) -> IntArray:
        """Return the training steps of the rows shown."""
        return self.trace.step_S[self.rows]

    @property
    def span(self) -> tuple[int, int]:
        """Return the first step shown and the step after the last."""
        return int(self.step_S[0]), int(self.step_S[-1]) + self.trace.meta.stride

    def name(self, layer: int) -> str:
        """Return `layer 3`, with the number in the trace's metadata."""
        return f"layer {layer_names(self.trace)[layer]}"

    def spans(self, layer: int) -> Iterator[tuple[float, float, State]]:
        """Yield (first step, end, state) of each stretch of equal labels shown; nothing if there are no labels."""
        if self.labels is None:
            return
        first, end = self.span
        origin, stride = int(self.trace.step_S[0]), self.trace.meta.stride
        for span in self.labels.spans(layer):
            start, stop = max(origin + span.start * stride, first), min(origin + span.stop * stride, end)
            if start < stop:
                yield start, stop, span.state

    def shifts(self) -> list[int]:
        """Return the steps shown at which the recipe planned a shift of data or learning rate."""
        first, end = self.span
        steps = [int(self.trace.step_S[row]) for row in planned_shifts(self.trace)]
        return [step for step in steps if first <= step < end]

    def bin_rows(self, across: int | None = None) -> int:
        """Return how many rows a bin of `binned` holds; the last may hold fewer."""
        return -(-len(self.step_S) // BINS[across or columns_of(len(self.layers))])

    def binned(self, value_SX: FloatArray, across: int | None = None) -> Binned:
        """Return values over the rows shown in bins of equal rows, as fine as ``across`` panels side by side allow."""
        return bin_rows(self.step_S, self.trace.meta.stride, value_SX, self.bin_rows(across))


def view_trace(trace: Trace, layers: Sequence[str] = (), first: int | None = None, last: int | None = None) -> View:
    """Return a view of the named layers (all by default) in steps ``first`` .. ``last``.

    Raise `NotFoundError` for a layer, and `PlotError` for steps, that the trace does not have.
    """
    names = layer_names(trace)
    for name in layers:
        if name not in names:
            raise not_found("layer", name, names)
    start = 0 if first is None else int(np.searchsorted(trace.step_S, first))
    stop = trace.steps if last is None else int(np.searchsorted(trace.step_S, last, side="right"))
    if start >= stop:
        has = f"{trace.step_S[0]} to {trace.step_S[-1]}" if trace.steps else "none"
        asked = "from the first" if first is None else f"from {first:,}"
        until = "to the end" if last is None else f"to {last:,}"
        raise PlotError(f"{trace.id}: no row in the steps {asked} {until}; the trace has {has}")
    try:
        labels = trace_labels(trace)
    except TraceError:
        labels = None
    chosen = tuple(names.index(name) for name in layers) if layers else tuple(range(trace.num_layers))
    return View(trace, chosen, slice(start, stop), labels)


def bin_rows(step_S: IntArray, stride: int, value_SX: FloatArray, rows: int) -> Binned:
    """Return mean, smallest and largest of ``rows`` consecutive rows; NaN if no row of a bin has a value."""
    S = len(step_S)
    N = -(-S // rows)
    padded = np.full((N * rows, *value_SX.shape[1:]), np.nan)
    padded[:S] = value_SX
    part = padded.reshape(N, rows, *value_SX.shape[1:])
    finite = np.isfinite(part)
    count = finite.sum(axis=1)
    mean = ratio_of(np.where(finite, part, 0.0).sum(axis=1), count)
    least = np.where(count > 0, np.where(finite, part, np.inf).min(axis=1), np.nan)
    largest = np.where(count > 0, np.where(finite, part, -np.inf).max(axis=1), np.nan)
    edges = float(step_S[0]) + stride * np.minimum(np.arange(N + 1) * rows, S).astype(np.float64)
    return Binned(edges, 0.5 * (edges[1:] + edges[:-1]), mean, least, largest)

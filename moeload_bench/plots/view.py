"""What a figure shows of a trace: which layers, which steps, their states, at a resolution that print can hold.

Axis letters: S rows, L MoE layers, E experts, N bins.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from moeload_bench.errors import PlotError, TraceError, not_found
from moeload_bench.plots.style import columns_of
from moeload_bench.states.rule import State, StateLabels, StateRule, label_states
from moeload_bench.states.shifts import planned_shifts
from moeload_bench.traces.trace import Trace, layer_names

FloatArray = NDArray[np.float64]

BINS = {1: 400, 2: 240, 3: 160, 4: 120}
"""Points along the step axis at most, by the number of panels side by side: about 80 per printed inch."""


class Binned(NamedTuple):
    """Bins of rows: ``edge_N1`` and ``middle_N`` in training steps; mean, least and largest value [N, ...]."""

    edge_N1: FloatArray
    middle_N: FloatArray
    mean_NX: FloatArray
    least_NX: FloatArray
    largest_NX: FloatArray


@dataclass(frozen=True, eq=False)
class View:
    """Layers and rows of a trace. ``labels`` are those of the whole trace, None where the rule cannot label it."""

    trace: Trace
    layers: tuple[int, ...]
    rows: slice
    labels: StateLabels | None

    @property
    def step_S(self) -> NDArray[np.int64]:
        """Training steps of the rows shown."""
        return self.trace.step_S[self.rows]

    @property
    def span(self) -> tuple[int, int]:
        """First step shown and the step after the last."""
        return int(self.step_S[0]), int(self.step_S[-1]) + self.trace.meta.stride

    def name(self, layer: int) -> str:
        """`layer 3`, as the trace's metadata counts."""
        return f"layer {layer_names(self.trace)[layer]}"

    def spans(self, layer: int) -> Iterator[tuple[float, float, State]]:
        """(first step, end, state) of each stretch of equal labels shown; nothing where there are no labels."""
        if self.labels is None:
            return
        first, end = self.span
        origin, stride = int(self.trace.step_S[0]), self.trace.meta.stride
        for span in self.labels.spans(layer):
            start, stop = max(origin + span.start * stride, first), min(origin + span.stop * stride, end)
            if start < stop:
                yield start, stop, span.state

    def shifts(self) -> list[int]:
        """Steps shown at which the recipe planned a shift of data or learning rate."""
        first, end = self.span
        steps = [int(self.trace.step_S[row]) for row in planned_shifts(self.trace)]
        return [step for step in steps if first <= step < end]

    def bin_rows(self, across: int | None = None) -> int:
        """How many rows a bin of `binned` holds; the last may hold fewer."""
        return -(-len(self.step_S) // BINS[across or columns_of(len(self.layers))])

    def binned(self, value_SX: FloatArray, across: int | None = None) -> Binned:
        """Values over the rows shown in bins of equal rows, as fine as ``across`` panels side by side allow."""
        return bin_rows(self.step_S, self.trace.meta.stride, value_SX, self.bin_rows(across))


def view_trace(
    trace: Trace,
    layers: Sequence[str] = (),
    first: int | None = None,
    last: int | None = None,
    rule: StateRule | None = None,
) -> View:
    """The layers named (all by default) in steps ``first`` .. ``last``.

    Raises `NotFoundError` for a layer that the trace has not, `PlotError` for steps that it has not.
    """
    names = layer_names(trace)
    for name in layers:
        if name not in names:
            raise not_found("layer", name, names)
    start = 0 if first is None else int(np.searchsorted(trace.step_S, first))
    stop = trace.steps if last is None else int(np.searchsorted(trace.step_S, last, side="right"))
    if start >= stop:
        has = f"{trace.step_S[0]} to {trace.step_S[-1]}" if trace.steps else "none"
        raise PlotError(f"{trace.id}: no row in steps {first} to {last}; the trace has {has}")
    try:
        labels = label_states(trace.load_SLE, stride=trace.meta.stride, rule=rule)
    except TraceError:
        labels = None
    chosen = tuple(names.index(name) for name in layers) if layers else tuple(range(trace.num_layers))
    return View(trace, chosen, slice(start, stop), labels)


def bin_rows(step_S: NDArray[np.int64], stride: int, value_SX: FloatArray, rows: int) -> Binned:
    """Mean, least and largest of ``rows`` consecutive rows; NaN where no row of a bin has a value."""
    S = len(step_S)
    N = -(-S // rows)
    padded = np.full((N * rows, *value_SX.shape[1:]), np.nan)
    padded[:S] = value_SX
    part = padded.reshape(N, rows, *value_SX.shape[1:])
    known = np.isfinite(part)
    count = known.sum(axis=1)
    mean = np.full(count.shape, np.nan)
    np.divide(np.where(known, part, 0.0).sum(axis=1), count, out=mean, where=count > 0)
    least = np.where(count > 0, np.where(known, part, np.inf).min(axis=1), np.nan)
    largest = np.where(count > 0, np.where(known, part, -np.inf).max(axis=1), np.nan)
    edges = float(step_S[0]) + stride * np.minimum(np.arange(N + 1) * rows, S).astype(np.float64)
    return Binned(edges, 0.5 * (edges[1:] + edges[:-1]), mean, least, largest)

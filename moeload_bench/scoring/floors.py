"""What no forecaster can beat: floors for each error metric, per MoE layer, state and horizon (docs/methods/floors.md).

``floor_batch``     the expected error of an oracle that knows the routing probabilities of each step, measured from the
                    two half batches of each step
``floor_level``     the expected error of a forecaster that knows only the level around the origin; approximate, and not
                    a lower bound
``floor_sampling``  the part of the batch noise that top-k draws without replacement explain, in closed form

Axis letters: S rows, W windows, L MoE layers, E experts, K suite horizons.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from moeload_bench.arrays import BoolArray, FloatArray, IntArray
from moeload_bench.scoring.noise import (
    BLOCK_ROWS,
    MEAN_ABS_NORMAL,
    NOISE_ROWS,
    Noise,
    Running,
    WindowMeans,
    batch_noise,
    level_noise,
    level_of,
    relative_noise,
    sampling_noise,
    window_means,
)
from moeload_bench.scoring.scores import filled, horizon_rows
from moeload_bench.states.rule import LABELS, StateLabels, state_names
from moeload_bench.traces import streaming
from moeload_bench.traces.means import mean_known, mean_over, ratio_of
from moeload_bench.traces.trace import Trace, shares

Mark = Literal["exact", "approximate", "not given"]

FLOOR_METRICS = ("window_tv", "tv", "error_rate", "error_rate_uniform", "window_error_rate")
FLOOR_NAMES = ("floor_batch", "floor_level", "floor_sampling")
RELATIVE = {"error_rate", "window_error_rate"}
"""Those that are relative to the shares of the windows."""
OF_MEANS = {"window_tv", *RELATIVE}
"""Those that need the noise of means over windows, not only that of rows."""

Windows = Sequence[IntArray]
"""First rows of windows at each horizon: K arrays [W]."""

MAX_WINDOWS = 400
"""Windows, spread evenly over the rows of a state, that a floor is a mean over."""
POINT_ROWS = 10
"""Rows between two points at which relative noise is worked out."""
AROUND = 2 * BLOCK_ROWS
"""Rows before and after a part of a trace that the noise of its rows depends on: whole blocks, half of `LEVEL_ROWS`."""
LAYERS_AT_ONCE = 4
"""Layers whose noise is worked out together: fewer calls, and arrays that stay in the cache."""
HELD_CELLS = 1 << 24
"""Running totals that a pass over a trace holds at most; it looks at fewer layers where they would be more."""
MOST_SERIES = 5
"""Series that are averaged over windows: the shares, and the terms of the three noises."""


@dataclass(frozen=True, eq=False)
class Floor:
    """One floor in one state: metric to [K, L], empty where it is not given."""

    mark: Mark
    note: str
    values: Mapping[str, FloatArray]


@dataclass(frozen=True, eq=False)
class Floors:
    """The floors of a trace: ``states[state][floor name]``; a state without rows is left out."""

    horizons: tuple[int, ...]
    states: Mapping[str, Mapping[str, Floor]]

    def by_state(self, K: int = 0) -> dict[str, dict[str, dict[str, FloatArray]]]:
        """Return by state, floor and metric the mean over layers [K], NaN where no layer has one; given floors only.

        Comparable with a mean over layers and over tasks whose origins lie in that state.
        """
        return {
            state: {
                name: {metric: filled(mean_over(value_KL, axis=1), K) for metric, value_KL in floor.values.items()}
                for name, floor in floors.items()
                if floor.values
            }
            for state, floors in self.states.items()
        }

    def marks(self) -> dict[str, Mark]:
        """Return how far each floor can be trusted; the same in every state."""
        return {name: floor.mark for floors in self.states.values() for name, floor in floors.items()}


def excess(error: FloatArray, floor: FloatArray) -> FloatArray:
    """Return sqrt(max(0, error^2 - floor^2)), the part of an error that a better forecast could remove; NaN stays NaN.

    Independent errors add in squares. ``error`` and ``floor`` broadcast.
    """
    square = np.asarray(error, dtype=np.float64) ** 2 - np.asarray(floor, dtype=np.float64) ** 2
    return np.sqrt(np.where(np.isnan(square), np.nan, np.maximum(square, 0.0)))


def trace_floors(
    trace: Trace,
    labels: StateLabels | None,
    horizons: Sequence[int],
    *,
    states: Sequence[str] = LABELS,
    given: Mapping[str, Windows] | None = None,
) -> Floors:
    """Return a trace's floors by state of the run at the origin (all layers agree), for horizons in training steps.

    A floor is the mean over windows that start in the state, as the scores are: one of ``states``, by the labels, or,
    where those give none, one of the names in ``given``, which holds the windows themselves. Raises `SuiteError` for a
    horizon that the stride does not divide or that is longer than the trace.
    """
    rows_K = horizon_rows(horizons, trace.meta.stride, trace.steps)
    windows = dict(given or {})
    names = np.array([] if labels is None else state_names(labels), dtype=np.str_)
    for state in states:
        first_W = window_starts(names == state, rows_K[-1])
        if first_W.size:
            windows[state] = [first_W] * len(rows_K)
    filled = {name: first_KW for name, first_KW in windows.items() if any(first_W.size for first_W in first_KW)}
    return Floors(tuple(horizons), _floors(trace, dict.fromkeys(range(trace.num_layers), filled), rows_K))


def window_starts(in_state_S: BoolArray, rows: int) -> IntArray:
    """Return at most MAX_WINDOWS rows of the state, evenly spread, with ``rows`` rows to come; [W], maybe empty."""
    S = len(in_state_S)
    row_N = np.flatnonzero(in_state_S[: S - rows + 1])
    pick = np.linspace(0, len(row_N) - 1, min(MAX_WINDOWS, len(row_N))).round().astype(np.int64)
    return np.asarray(row_N[pick], dtype=np.int64)


def floors_from(
    trace: Trace,
    first_W_by_layer: Mapping[int, IntArray],
    rows_K: Sequence[int],
    metrics: Sequence[str] = FLOOR_METRICS,
    floors: Sequence[str] = FLOOR_NAMES,
) -> dict[str, Floor]:
    """Return these floors of the layers named, averaged over the windows that start at the rows given for each."""
    windows = {layer: {"": [first_W] * len(rows_K)} for layer, first_W in first_W_by_layer.items()}
    return _floors(trace, windows, rows_K, metrics, floors)[""]


def _floors(
    trace: Trace,
    windows_by_layer: Mapping[int, Mapping[str, Windows]],
    rows_K: Sequence[int],
    metrics: Sequence[str] = FLOOR_METRICS,
    floors: Sequence[str] = FLOOR_NAMES,
) -> dict[str, dict[str, Floor]]:
    """Return these floors by name of the windows, which is the same for every layer."""
    marks = {name: mark for name, mark in marks_of(trace).items() if name in floors}
    available = [name for name, (mark, _) in marks.items() if mark != "not given"]
    made = {m: _Layer(trace.steps, windows, rows_K, metrics) for m, windows in windows_by_layer.items()}
    most = max(1, HELD_CELLS // max(1, *(trace.num_experts * layer.most_held for layer in made.values())))
    for first in range(0, len(made), most):
        _pass(trace, dict(itertools.islice(made.items(), first, first + most)), available)
    values_by_floor = {floor: [layer.floors(floor) for layer in made.values()] for floor in available}
    return {
        name: {
            floor: Floor(mark, note, _stack([layer[name] for layer in values_by_floor.get(floor, [])]))
            for floor, (mark, note) in marks.items()
        }
        for name in next(iter(windows_by_layer.values()), {})
    }


def _pass(trace: Trace, layers: Mapping[int, _Layer], floors: Sequence[str]) -> None:
    """Show the trace to these layers, a part at a time, with as many rows around it as noise is worked out from."""
    halves, numbers = trace.columns.get("load_half"), list(layers)
    groups = [numbers[i : i + LAYERS_AT_ONCE] for i in range(0, len(numbers), LAYERS_AT_ONCE)]
    series: dict[int, list[Running]] = {}
    for part in streaming.parts(trace.load_SLE.shape, BLOCK_ROWS, streaming.CELLS_A_PART // 2):  # a dozen arrays of one
        start = max(0, part.start - AROUND)
        wide, inner = slice(start, part.stop + AROUND), slice(part.start - start, part.stop - start)
        load_SLE, half_SLE = trace.load_SLE[wide], None if halves is None else halves[wide]
        for group in groups:
            load_SGE = load_SLE[:, group]
            share_SGE = shares(load_SGE)
            noises = {}
            if "floor_level" in floors:
                noises["floor_level"] = level_noise(share_SGE)
            if half_SLE is not None and "floor_batch" in floors:
                noises["floor_batch"] = batch_noise(load_SGE, half_SLE[:, group])
            if "floor_sampling" in floors:
                top_k_G = np.array([trace.meta.layers[m].top_k or 1 for m in group])
                noises["floor_sampling"] = sampling_noise(level_of(share_SGE), load_SGE.sum(axis=2), top_k_G)
            noises = {name: noise.of_rows(inner) for name, noise in noises.items()}
            metrics = {*layers[group[0]].metrics}
            columns = [term for noise in noises.values() for term in noise.terms] if metrics & OF_MEANS else []
            if RELATIVE & metrics:
                columns.append(share_SGE[inner])
            running = series.setdefault(group[0], [Running() for _ in columns])
            for totals, values_SGE in zip(running, columns, strict=True):
                totals.add(values_SGE)
            for g, m in enumerate(group):
                layers[m].add(running, noises, g)


class _Layer:
    """One layer, and by name the windows that its floors are means over; its rows come part by part."""

    def __init__(
        self, steps: int, windows: Mapping[str, Windows], rows_K: Sequence[int], metrics: Sequence[str]
    ) -> None:
        self._steps, self._windows, self._rows_K, self.metrics = steps, windows, rows_K, metrics
        self._over_K = [max(rows, NOISE_ROWS) for rows in rows_K]
        self._ends = {
            (name, k): WindowMeans(first_W, self._over_K[k], steps)
            for name, first_KW in windows.items()
            for k, first_W in enumerate(first_KW)
        }
        self._points = WindowMeans(np.arange(0, steps, POINT_ROWS) - NOISE_ROWS // 2, NOISE_ROWS, steps)
        self._size: dict[str, list[FloatArray]] = defaultdict(list)
        self._found: dict[tuple[str, str, str, int], list[tuple[IntArray, FloatArray]]] = defaultdict(list)

    @property
    def most_held(self) -> int:
        """Return about how many running totals of all experts are held at a time: the windows that lie over one row."""
        shares_K = [min(1.0, 2 * over / self._steps) for over in self._over_K]
        each = (
            len(first_W) * part for row in self._windows.values() for first_W, part in zip(row, shares_K, strict=True)
        )
        return 1 + int(MOST_SERIES * sum(each))

    def add(self, series: Sequence[Running], noises: Mapping[str, Noise], g: int) -> None:
        """Take in the rows that follow: running totals of all terms and of the shares, this layer's at ``g``."""
        for floor, noise in noises.items():
            self._size[floor].append(0.5 * noise.size_SXE[:, g].sum(axis=1, keepdims=True))
        for (name, k), windows in self._ends.items() if series else ():
            at_W, means = windows.ended(series, (g,))
            for floor, deviation_WE in _deviations(noises, means, self._rows_K[k]):
                self._keep(floor, "window_tv", name, k, at_W, 0.5 * MEAN_ABS_NORMAL * deviation_WE.sum(axis=1))
                if "window_error_rate" in self.metrics:
                    error_WE, seen_WE = relative_noise(ratio_of(deviation_WE, means[-1]))
                    error_W = ratio_of(_total(error_WE * seen_WE), _total(seen_WE))
                    self._keep(floor, "window_error_rate", name, k, at_W, error_W)
        if "error_rate" in self.metrics:
            at_P, means = self._points.ended(series, (g,))
            for floor, deviation_PE in _deviations(noises, means, 1):
                error_PE, seen_PE = relative_noise(ratio_of(deviation_PE, means[-1]))
                self._keep(floor, "error_rate", "", 0, at_P, np.stack([_total(error_PE * seen_PE), _total(seen_PE)], 1))

    def _keep(self, floor: str, metric: str, name: str, k: int, at_W: IntArray, values: FloatArray) -> None:
        self._found[floor, metric, name, k].append((at_W, values))

    def _cached(self, floor: str, metric: str, name: str = "", k: int = 0) -> FloatArray:
        """Return what was kept of every window, in the windows' order."""
        windows, values = zip(*self._found[floor, metric, name, k], strict=True)
        return np.concatenate(values)[np.argsort(np.concatenate(windows), kind="stable")]

    def floors(self, floor: str) -> dict[str, dict[str, FloatArray]]:
        """Return by name of the windows and metric [K], NaN at a horizon without windows; all rows have come."""
        tv_S1 = np.concatenate(self._size[floor])
        # at every point, over experts: the sum of the expected |d| / (p + d), and how many have p + d > 0. The metric
        # divides by the observed share, which carries the noise too, and leaves out experts without tokens
        relative_P2 = self._cached(floor, "error_rate") if "error_rate" in self.metrics else None
        out: dict[str, dict[str, FloatArray]] = {}
        for name, first_KW in self._windows.items():
            values_K: dict[str, list[float]] = {metric: [] for metric in self.metrics}
            for k, (first_W, over) in enumerate(zip(first_KW, self._over_K, strict=True)):
                per_step = mean_known(window_means(tv_S1, first_W, over))
                means = {"tv": per_step, "error_rate_uniform": 2.0 * per_step}
                if relative_P2 is not None:
                    points = max(1, over // POINT_ROWS)
                    ratio_W1, cells_W1 = (
                        window_means(each_P1, first_W // POINT_ROWS, points)
                        for each_P1 in np.split(relative_P2, 2, axis=1)
                    )
                    means["error_rate"] = mean_known(ratio_of(ratio_W1, cells_W1))
                for metric, values in values_K.items():
                    values.append(
                        means[metric] if metric in means else mean_known(self._cached(floor, metric, name, k))
                    )
            out[name] = {metric: np.array(values) for metric, values in values_K.items()}
        return out


def _deviations(
    noises: Mapping[str, Noise], terms: Sequence[FloatArray], rows: int
) -> Iterator[tuple[str, FloatArray]]:
    """Yield each floor's name and the standard deviation of means over ``rows`` rows, from the means of all terms."""
    rest = iter(terms)
    for floor, noise in noises.items():
        yield floor, np.sqrt(noise.of_mean(list(itertools.islice(rest, len(noise.terms))), rows))


def _total(values_WE: FloatArray) -> FloatArray:
    """Return the sum over the experts that have a value; [W], 0 where none has."""
    return np.asarray(np.where(np.isfinite(values_WE), values_WE, 0.0).sum(axis=1))


def marks_of(trace: Trace) -> dict[str, tuple[Mark, str]]:
    """Return how far each floor of a trace can be trusted, and why."""
    half: tuple[Mark, str] = ("exact", "measured from half batches")
    sampling: tuple[Mark, str] = ("exact", "top-k draws without replacement; batch composition adds to it")
    if "load_half" not in trace.columns:
        half = "not given", "the trace has no half batches"
    if trace.meta.count_semantics == "derived":
        sampling = "not given", "counts are made from shares"
    elif trace.meta.top_k is None:
        sampling = "approximate", "top-k is not known: taken as 1"
    elif trace.meta.count_semantics != "pre_drop":
        sampling = "approximate", f"counts are {trace.meta.count_semantics}"
    level: tuple[Mark, str] = ("approximate", "noise around the level; not a lower bound")
    return dict(zip(FLOOR_NAMES, (half, level, sampling), strict=True))


def _stack(layers: list[dict[str, FloatArray]]) -> dict[str, FloatArray]:
    return {name: np.stack([values[name] for values in layers], axis=1) for name in layers[0]} if layers else {}

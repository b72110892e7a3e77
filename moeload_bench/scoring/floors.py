"""What no forecaster can beat: floors for each error metric, per MoE layer, state and horizon (docs/methods/floors.md).

``floor_batch``     the expected error of an oracle that knows the routing probabilities of each step, measured from the
                    two half batches of each step
``floor_level``     the expected error of a forecaster that knows only the level around the origin; approximate, and not
                    a lower bound
``floor_sampling``  the part of the batch noise that top-k draws without replacement explain, in closed form

Axis letters: S rows, W windows, L MoE layers, E experts, K suite horizons.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np

from moeload_bench.arrays import BoolArray, FloatArray, IntArray
from moeload_bench.scoring.metrics import ratio_of
from moeload_bench.scoring.noise import (
    MEAN_ABS_NORMAL,
    NOISE_ROWS,
    Noise,
    Running,
    batch_noise,
    level_noise,
    relative_noise,
    sampling_noise,
)
from moeload_bench.scoring.scores import horizon_rows, mean_over
from moeload_bench.states.rule import StateLabels, state_names
from moeload_bench.traces.trace import Trace, shares

Mark = Literal["exact", "approximate", "not given"]

FLOOR_METRICS = ("window_tv", "tv", "error_rate", "error_rate_uniform", "window_error_rate")
FLOOR_NAMES = ("floor_batch", "floor_level", "floor_sampling")
LABELLED = ("transient", "stable")
"""States whose floors are means over the rows with that label."""

Windows = Sequence[IntArray]
"""First rows of windows at each horizon: K arrays [W]."""

MAX_WINDOWS = 400
"""Windows, spread evenly over the rows of a state, that a floor is a mean over."""
LEVEL_ROWS = 20
"""Rows around a row whose mean share stands for its level."""
POINT_ROWS = 10
"""Rows between two points at which relative noise is worked out."""


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

    def by_state(self) -> dict[str, dict[str, dict[str, FloatArray]]]:
        """state, floor, metric to the mean over layers [K], NaN where no layer has one; floors not given are left out.

        Comparable with a mean over layers and over tasks whose origins lie in that state.
        """
        return {
            state: {
                name: {metric: mean_over(value_KL, axis=1) for metric, value_KL in floor.values.items()}
                for name, floor in floors.items()
                if floor.values
            }
            for state, floors in self.states.items()
        }

    def marks(self) -> dict[str, Mark]:
        """How far each floor can be trusted; the same in every state."""
        return {name: floor.mark for floors in self.states.values() for name, floor in floors.items()}


def excess(error: FloatArray, floor: FloatArray) -> FloatArray:
    """sqrt(max(0, error^2 - floor^2)): the part of an error that a better forecast could remove; NaN stays NaN.

    Independent errors add in squares. ``error`` and ``floor`` broadcast.
    """
    square = np.asarray(error, dtype=np.float64) ** 2 - np.asarray(floor, dtype=np.float64) ** 2
    return np.sqrt(np.where(np.isnan(square), np.nan, np.maximum(square, 0.0)))


def trace_floors(
    trace: Trace,
    labels: StateLabels | None,
    horizons: Sequence[int],
    *,
    states: Sequence[str] = LABELLED,
    given: Mapping[str, Windows] | None = None,
) -> Floors:
    """Floors of a trace by state of the run at the origin (all layers agree), for horizons in training steps.

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
    kept = {name: first_KW for name, first_KW in windows.items() if any(first_W.size for first_W in first_KW)}
    return Floors(tuple(horizons), _floors(trace, dict.fromkeys(range(trace.num_layers), kept), rows_K))


def window_starts(in_state_S: BoolArray, rows: int) -> IntArray:
    """At most MAX_WINDOWS rows of the state, evenly spread, with ``rows`` rows to come; [W], maybe empty."""
    S = len(in_state_S)
    at = np.flatnonzero(in_state_S[: S - rows + 1])
    pick = np.linspace(0, len(at) - 1, min(MAX_WINDOWS, len(at))).round().astype(np.int64)
    return np.asarray(at[pick], dtype=np.int64)


def floors_from(
    trace: Trace,
    first_W_by_layer: Mapping[int, IntArray],
    rows_K: Sequence[int],
    metrics: Sequence[str] = FLOOR_METRICS,
) -> dict[str, Floor]:
    """The three floors, of the layers named, averaged over the windows that start at the rows given for each."""
    windows = {layer: {"": [first_W] * len(rows_K)} for layer, first_W in first_W_by_layer.items()}
    return _floors(trace, windows, rows_K, metrics)[""]


def _floors(
    trace: Trace,
    windows_by_layer: Mapping[int, Mapping[str, Windows]],
    rows_K: Sequence[int],
    metrics: Sequence[str] = FLOOR_METRICS,
) -> dict[str, dict[str, Floor]]:
    """The three floors by name of the windows, which is the same for every layer."""
    batch: list[dict[str, dict[str, FloatArray]]] = []
    level: list[dict[str, dict[str, FloatArray]]] = []
    sampling: list[dict[str, dict[str, FloatArray]]] = []
    for layer, windows in windows_by_layer.items():
        load_SE = trace.load_SLE[:, layer]
        share_SE = shares(load_SE)
        made = _Layer(Running(share_SE), windows, rows_K, metrics)
        if "load_half" in trace.columns:
            batch.append(made.floors(batch_noise(load_SE, trace.columns["load_half"][:, layer])))
        level.append(made.floors(level_noise(share_SE)))
        level_SE = made.share.mean(np.arange(trace.steps) - LEVEL_ROWS // 2, LEVEL_ROWS)
        top_k = trace.meta.layers[layer].top_k or 1
        sampling.append(made.floors(sampling_noise(level_SE, load_SE.sum(axis=1), top_k)))
    no_half = "the trace has no half batches"
    return {
        name: {
            "floor_batch": Floor("exact", "measured from half batches", _stack([floors[name] for floors in batch]))
            if batch
            else Floor("not given", no_half, {}),
            "floor_level": Floor(
                "approximate", "noise around the level; not a lower bound", _stack([floors[name] for floors in level])
            ),
            "floor_sampling": Floor(*_sampling_mark(trace), _stack([floors[name] for floors in sampling]))
            if trace.meta.count_semantics != "derived"
            else Floor("not given", "counts are made from shares", {}),
        }
        for name in next(iter(windows_by_layer.values()), {})
    }


class _Layer(NamedTuple):
    """One layer's shares, and by name the windows that its floors are means over."""

    share: Running
    windows: Mapping[str, Windows]
    rows_K: Sequence[int]
    metrics: Sequence[str]

    def floors(self, noise: Noise) -> dict[str, dict[str, FloatArray]]:
        """Name of the windows, metric to [K]."""
        tv = Running(0.5 * noise.size_SE.sum(axis=1, keepdims=True))
        relative = self.relative(noise) if "error_rate" in self.metrics else None
        return {name: self.floor(first_KW, noise, tv, relative) for name, first_KW in self.windows.items()}

    def floor(
        self, first_KW: Windows, noise: Noise, tv: Running, relative: tuple[Running, Running] | None
    ) -> dict[str, FloatArray]:
        """Metric to [K], NaN at a horizon without windows."""
        out: dict[str, list[float]] = {name: [] for name in self.metrics}
        for first_W, rows in zip(first_KW, self.rows_K, strict=True):
            over = max(rows, NOISE_ROWS)
            deviation_WE = np.sqrt(noise.variance_of_mean(first_W, rows))
            per_step = _mean(tv.mean(first_W, over))
            found = {
                "window_tv": _mean(0.5 * MEAN_ABS_NORMAL * deviation_WE.sum(axis=1)),
                "tv": per_step,
                "error_rate_uniform": 2.0 * per_step,
            }
            if relative is not None:
                ratio, cells = relative
                at_W, points = first_W // POINT_ROWS, max(1, over // POINT_ROWS)
                found["error_rate"] = _mean(ratio_of(ratio.mean(at_W, points), cells.mean(at_W, points)))
            if "window_error_rate" in self.metrics:
                error_WE, seen_WE = relative_noise(ratio_of(deviation_WE, self.share.mean(first_W, over)))
                found["window_error_rate"] = _mean(ratio_of(_total(error_WE * seen_WE), _total(seen_WE)))
            for name, values in out.items():
                values.append(found[name])
        return {name: np.array(values) for name, values in out.items()}

    def relative(self, noise: Noise) -> tuple[Running, Running]:
        """At every POINT_ROWS-th row, over experts: the sum of the expected |d| / (p + d), and how many have p + d > 0.

        The metric divides by the observed share, which carries the noise too, and leaves out experts without tokens.
        """
        at_P = np.arange(0, self.share.rows, POINT_ROWS, dtype=np.int64) - NOISE_ROWS // 2
        spread_PE = ratio_of(np.sqrt(noise.variance_of_mean(at_P, 1)), self.share.mean(at_P, NOISE_ROWS))
        error_PE, seen_PE = relative_noise(spread_PE)
        return Running(_total(error_PE * seen_PE)[:, None]), Running(_total(seen_PE)[:, None])


def _total(values_WE: FloatArray) -> FloatArray:
    """Sum over the experts that have a value; [W], 0 where none has."""
    return np.asarray(np.where(np.isfinite(values_WE), values_WE, 0.0).sum(axis=1))


def _sampling_mark(trace: Trace) -> tuple[Mark, str]:
    if trace.meta.top_k is None:
        return "approximate", "top-k is not known: taken as 1"
    if trace.meta.count_semantics != "pre_drop":
        return "approximate", f"counts are {trace.meta.count_semantics}"
    return "exact", "top-k draws without replacement; batch composition adds to it"


def _stack(layers: list[dict[str, FloatArray]]) -> dict[str, FloatArray]:
    return {name: np.stack([values[name] for values in layers], axis=1) for name in layers[0]} if layers else {}


def _mean(values: FloatArray) -> float:
    known = values[np.isfinite(values)]
    return float(known.mean()) if known.size else float("nan")

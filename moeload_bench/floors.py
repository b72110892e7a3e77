"""What no forecaster can beat: floors for every error metric, per MoE layer, state and horizon (docs/floors.md).

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
from statistics import NormalDist
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from moeload_bench.drift import BoolArray, FloatArray
from moeload_bench.noise import (
    MEAN_ABS_NORMAL,
    NOISE_ROWS,
    Noise,
    Running,
    batch_noise,
    level_noise,
    sampling_variance,
)
from moeload_bench.scoring import horizon_rows, layer_mean
from moeload_bench.states import StateLabels, state_names
from moeload_bench.trace import IntArray, Trace, shares

Mark = Literal["exact", "approximate", "not given"]

FLOOR_METRICS = ("window_tv", "tv", "error_rate", "error_rate_uniform", "window_error_rate")
FLOOR_NAMES = ("floor_batch", "floor_level", "floor_sampling")

MAX_WINDOWS = 400
"""Windows, spread evenly over the rows of a state, that a floor is a mean over."""
LEVEL_ROWS = 20
"""Rows around a row whose mean share stands for its level."""
GOLDEN = (5**0.5 - 1) / 2


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
                name: {metric: layer_mean(value_KL)[0] for metric, value_KL in floor.values.items()}
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


def trace_floors(trace: Trace, labels: StateLabels, horizons: Sequence[int]) -> Floors:
    """Floors of a trace by state of the run at the origin (all layers agree), for horizons in training steps.

    A floor is the mean over windows that start in the state, as the scores are. Raises `SuiteError` for a horizon that
    the stride does not divide or that is longer than the trace.
    """
    rows_K = horizon_rows(horizons, trace.meta.stride, trace.steps)
    names = np.asarray(state_names(labels))
    states = {}
    for state in ("transient", "stable"):
        first_W = window_starts(names == state, rows_K[-1])
        if first_W.size:
            states[state] = floors_from(trace, dict.fromkeys(range(trace.num_layers), first_W), rows_K)
    return Floors(tuple(horizons), states)


def window_starts(in_state_S: BoolArray, rows: int) -> IntArray:
    """At most MAX_WINDOWS rows of the state, evenly spread, with ``rows`` rows to come; [W], maybe empty."""
    S = len(in_state_S)
    at = np.flatnonzero(in_state_S[: S - rows + 1])
    pick = np.linspace(0, len(at) - 1, min(MAX_WINDOWS, len(at))).round().astype(np.int64)
    return np.asarray(at[pick], dtype=np.int64)


def floors_from(trace: Trace, first_W_by_layer: Mapping[int, IntArray], rows_K: Sequence[int]) -> dict[str, Floor]:
    """The three floors, of the layers named, averaged over the windows that start at the rows given for each."""
    batch: list[dict[str, FloatArray]] = []
    level: list[dict[str, FloatArray]] = []
    sampling: list[dict[str, FloatArray]] = []
    for layer, first_W in first_W_by_layer.items():
        share_SE, total_S = shares(trace.load_SLE[:, layer]), trace.load_SLE[:, layer].sum(axis=1)
        share = Running(share_SE)
        level_SE = share.mean(np.arange(trace.steps) - LEVEL_ROWS // 2, LEVEL_ROWS)
        made = _Layer(share, level_SE, total_S, first_W, rows_K)
        if "load_half" in trace.columns:
            batch.append(made.floor(batch_noise(trace.load_SLE[:, layer], trace.columns["load_half"][:, layer])))
        level.append(made.floor(level_noise(share_SE)))
        sampling.append(made.sampling_floor(trace.meta.layers[layer].top_k or 1))
    no_half = "the trace has no half batches"
    return {
        "floor_batch": Floor("exact", "measured from half batches", _stack(batch))
        if batch
        else Floor("not given", no_half, {}),
        "floor_level": Floor("approximate", "noise around the level; not a lower bound", _stack(level)),
        "floor_sampling": Floor(*_sampling_mark(trace), _stack(sampling)),
    }


class _Layer(NamedTuple):
    """One layer's shares, levels and loads, and the windows that its floors are means over."""

    share: Running
    level_SE: FloatArray
    total_S: IntArray
    first_W: IntArray
    rows_K: Sequence[int]

    def floor(self, noise: Noise) -> dict[str, FloatArray]:
        """Metric to [K]."""
        unit_S1 = 1.0 / np.maximum(self.total_S, 1)[:, None]
        size_SE = np.abs(noise.deviation_SE)
        tv = Running(0.5 * size_SE.sum(axis=1, keepdims=True))
        ratio_S1, cells_S1 = _relative(size_SE, self.level_SE, unit_S1)
        ratio, cells = Running(ratio_S1), Running(cells_S1)
        out: dict[str, list[float]] = {name: [] for name in FLOOR_METRICS}
        for rows in self.rows_K:
            over = max(rows, NOISE_ROWS)
            deviation_WE = MEAN_ABS_NORMAL * np.sqrt(noise.variance_of_mean(self.first_W, rows))
            mean_WE = self.share.mean(self.first_W, over)
            per_step = _mean(tv.mean(self.first_W, over))
            out["window_tv"].append(_mean(0.5 * deviation_WE.sum(axis=1)))
            out["tv"].append(per_step)
            out["error_rate"].append(_mean(_ratio(ratio.mean(self.first_W, over), cells.mean(self.first_W, over))))
            out["error_rate_uniform"].append(2.0 * per_step)
            out["window_error_rate"].append(_mean(_window_relative(deviation_WE, mean_WE)))
        return {name: np.array(values) for name, values in out.items()}

    def sampling_floor(self, top_k: int) -> dict[str, FloatArray]:
        """Metric to [K] with v_e = p (1 - k p) / (k T): k draws without replacement for each of T tokens."""
        level, total = self.level_SE, np.maximum(self.total_S, 1)[:, None]
        variance_SE = sampling_variance(level, total, top_k)
        running = Running(variance_SE)
        deviation_SE = np.sqrt(variance_SE) * _normal_quantiles(len(level))[:, None]
        noise = Noise(deviation_SE, lambda first, rows: running.mean(first, max(rows, NOISE_ROWS)) / rows)
        return self.floor(noise)


def _relative(size_SE: FloatArray, level_SE: FloatArray, unit_S1: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Per row: sum over experts of |d| / (level + d) for d = +-size, and how many experts that is; two [S, 1].

    The metric divides by the observed share, which carries the noise too. An expert counts where level + d is at
    least half a token, and is taken to have one token at least: the metric leaves out experts without any.
    """
    total, cells = np.zeros((len(size_SE), 1)), np.zeros((len(size_SE), 1))
    for sign in (1.0, -1.0):
        observed = level_SE + sign * size_SE
        counted = observed >= 0.5 * unit_S1
        ratio = np.zeros(size_SE.shape)
        np.divide(size_SE, np.maximum(observed, unit_S1), out=ratio, where=counted)
        total += 0.5 * ratio.sum(axis=1, keepdims=True)
        cells += 0.5 * counted.sum(axis=1, keepdims=True)
    unknown = np.isnan(size_SE).any(axis=1, keepdims=True)
    return np.where(unknown, np.nan, total), np.where(unknown, np.nan, cells)


def _window_relative(deviation_WE: FloatArray, mean_WE: FloatArray) -> FloatArray:
    """Expected |d| / (m + d) for normal d of that mean size, to third order: (size / m) (1 + 2 variance / m^2)."""
    ratio = _ratio(deviation_WE, mean_WE)
    square = np.minimum((ratio / MEAN_ABS_NORMAL) ** 2, 0.25)
    return np.asarray(ratio * (1.0 + 2.0 * square))


def _normal_quantiles(count: int) -> FloatArray:
    """Normal deviates that are evenly spread in any stretch of the sequence (multiples of the golden ratio)."""
    normal = NormalDist()
    return np.array([normal.inv_cdf((0.5 + i * GOLDEN) % 1.0) for i in range(count)])


def _sampling_mark(trace: Trace) -> tuple[Mark, str]:
    if trace.meta.top_k is None:
        return "approximate", "top-k is not known: taken as 1"
    if trace.meta.count_semantics != "pre_drop":
        return "approximate", f"counts are {trace.meta.count_semantics}"
    return "exact", "top-k draws without replacement; batch composition adds to it"


def _stack(layers: list[dict[str, FloatArray]]) -> dict[str, FloatArray]:
    return {name: np.stack([values[name] for values in layers], axis=1) for name in FLOOR_METRICS} if layers else {}


def _mean(values: FloatArray) -> float:
    known = values[np.isfinite(values)]
    return float(known.mean()) if known.size else float("nan")


def _ratio(top: NDArray[np.float64], bottom: NDArray[np.float64]) -> FloatArray:
    out = np.full(top.shape, np.nan)
    np.divide(top, bottom, out=out, where=bottom > 0)
    return out

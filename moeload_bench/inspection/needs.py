"""The need of a run, the largest load over the even share, and forecasts of the need of its next window.

The need of a window is forecast as a level times a ratio. The level is the largest need of the last half window. The
ratios are those of the run's own past windows, each with weight 1, and those of other runs (`PRIOR`, fitted on `train`
recipes, mostly those with batches of the run's size), which together have the weight of `PRIOR_WINDOWS` windows. A
quantile of the mixture is the forecast.

Axis letters: S steps, L MoE layers, E experts, F factors, N windows, P ratios of other runs, Q risks.
"""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from moeload_bench.arrays import Array, FloatArray, IntArray
from moeload_bench.errors import PlacementError
from moeload_bench.files import PACKAGE
from moeload_bench.inspection.balance import rank_sums
from moeload_bench.traces.meta import Stratum, stratum_of
from moeload_bench.traces.streaming import parts
from moeload_bench.traces.trace import Trace

MICRO = "micro_max"
"""The optional column of a trace with the largest load of each expert in one micro-batch."""
PRIOR_WINDOWS = 5.0
"""Weight of the ratios of other runs, in windows of the run's own; chosen on `train`."""
TIMES = (0.7, 0.85, 1.0, 1.05, 1.1, 1.2, 1.35, 1.5, 2.0, 3.0, 5.0)
"""Times the level: the capacity factors at which dropped tokens are known of other runs."""
LEAST_RISK = 0.01
"""Smaller risks are extrapolated: the windows of `train` do not show them."""
MOST_RISK = 0.5
PRIOR = PACKAGE / "inspection" / "prior.json"


def needs(trace: Trace, devices: int | None = None) -> FloatArray:
    """Return the load of the busiest device over the even share, [S, L]; 1 where a layer had no load.

    Each device holds as many experts, in the order of their numbers; None: one each. Raise `PlacementError` for
    devices that do not divide the experts.
    """
    experts = trace.num_experts
    devices = experts if devices is None else devices
    if devices < 1 or experts % devices:
        fitting = ", ".join(str(d) for d in range(1, experts + 1) if experts % d == 0)
        raise PlacementError(
            f"--devices is {devices}, expected a divisor of the {experts} experts, each device holding as many: "
            f"{fitting}"
        )
    return _over_even(trace, trace.load_SLE, devices)


def micro_needs(trace: Trace) -> FloatArray | None:
    """Return the busiest expert's load of one micro-batch over the even share of a step, [S, L].

    None if the trace does not hold the loads of micro-batches.
    """
    return _over_even(trace, trace.columns[MICRO], trace.num_experts) if MICRO in trace.columns else None


def _over_even(trace: Trace, load_SLE: Array, sharers: int) -> FloatArray:
    need_SL = np.ones((trace.steps, trace.num_layers))
    for rows in parts(trace.load_SLE.shape):
        (load_SLD,), total_SL = rank_sums(load_SLE[rows], (sharers,)), totals(trace.load_SLE[rows])
        np.divide(load_SLD.max(axis=2) * float(sharers), total_SL, out=need_SL[rows], where=total_SL > 0)
    return need_SL


def most_need(trace: Trace, sharers: int) -> float:
    """Return the largest need that routing allows, of one of so many sharers of the experts.

    A token goes to an expert once, so before drops an expert has at most 1 / top-k of a layer's load.
    """
    top_k = trace.meta.top_k if trace.meta.count_semantics == "pre_drop" else None
    return min(sharers, trace.num_experts / (top_k or 1))


def totals(load_SLE: IntArray) -> IntArray:
    """Return the load of each step and layer, [S, L]."""
    return np.asarray(np.einsum("sle->sl", load_SLE))  # takes a quarter of the time of `sum` along a short axis


def dropped_parts(load_LE: IntArray, factor_F: FloatArray) -> FloatArray:
    """Return the part of each layer's tokens that is dropped in a step at capacity factors, [F, L]."""
    share_LE = load_LE * float(load_LE.shape[1]) / np.maximum(load_LE.sum(axis=1, keepdims=True), 1)
    return np.asarray(np.maximum(share_LE - factor_F[:, None, None], 0.0).mean(axis=2))


def dropped_after(trace: Trace, need_S: FloatArray, rows: int, times_F: FloatArray) -> FloatArray:
    """Return the part of tokens dropped in each past window at factors that are so many times the level before, [N, F].

    Windows and levels are those of `seen`; ``need_S`` is the largest need over layers. Only rows that need
    more than the least factor are read.
    """
    half, first = max(1, rows // 2), len(need_S) % rows + rows
    starts = range(first, len(need_S) - rows + 1, rows)
    dropped_NF = np.zeros((len(starts), len(times_F)))
    for n, start in enumerate(starts):
        factor_F = times_F * need_S[start - half : start].max()
        over = start + np.flatnonzero(need_S[start : start + rows] > factor_F.min())
        for row in over.tolist():
            dropped_NF[n] += dropped_parts(trace.load_SLE[row], factor_F).mean(axis=1)
    return dropped_NF / rows


# ---------------------------------------------------------------- forecasts


class Prior(NamedTuple):
    """Ratios of other runs in windows of ``rows`` rows, and the part of tokens that they drop at `TIMES`.

    ``size``: the size of batch whose runs count most.
    """

    size: Stratum
    rows: int
    ratio_P: FloatArray
    dropped_F: FloatArray

    def dropped(self, times_Q: FloatArray) -> FloatArray:
        """Return the mean part of tokens dropped at factors of so many times the level [Q]."""
        return np.interp(times_Q, TIMES, self.dropped_F)


@functools.cache
def priors() -> tuple[Prior, ...]:
    """Return what was fitted on `train` runs, a record for each size of batch and length of a window."""
    prior = json.loads(PRIOR.read_text())
    return tuple(
        Prior(size, int(rows), np.array(one["ratio"]), np.array(one["dropped"]))
        for size, fitted in prior.items()
        for rows, one in fitted.items()
    )


def prior_for(rows: int, tokens: float) -> Prior:
    """Return what was fitted for the size of ``tokens`` per expert and row, and for the nearest length of a window."""
    return min((one for one in priors() if one.size == size_of(tokens)), key=lambda one: abs(math.log(one.rows / rows)))


def size_of(tokens: float) -> Stratum:
    """Return whose windows are most like those of a run with so many tokens per expert and row."""
    return stratum_of(tokens) or "small"


def seen(need_S: FloatArray, rows: int) -> tuple[float, FloatArray]:
    """Return the level of the last half window, and need over level of each past window [N].

    Windows of this many rows are disjoint and end with the last row; those after a window without load are left out.
    """
    half = max(1, rows // 2)
    whole_NW = need_S[len(need_S) % rows :].reshape(-1, rows) if len(need_S) >= rows else np.empty((0, rows))
    level_N = whole_NW[:, -half:].max(axis=1, initial=0.0)
    need_N, before_N = whole_NW[1:].max(axis=1, initial=0.0), level_N[:-1]
    return float(need_S[-half:].max()), need_N[before_N > 0] / before_N[before_N > 0]


def at_parts(value: FloatArray, weight: FloatArray, part_Q: FloatArray) -> FloatArray:
    """Return the least value at or below which each part of the weight lies [Q]."""
    order = np.argsort(value)
    below = np.cumsum(weight[order]) / weight.sum()
    place_Q = np.minimum(np.searchsorted(below, part_Q - 1e-9), len(value) - 1)
    return np.asarray(value[order][place_Q])


def quantile(ratio: FloatArray, weight: FloatArray, risks: Sequence[float]) -> FloatArray:
    """Return the least ratio that at most the part ``risk`` of the weight exceeds, for each risk [Q].

    Below `LEAST_RISK` it goes on as an exponential tail through the quantiles at 10 and 1 %.
    """
    risk_Q = np.array(risks)
    tenth, last = at_parts(ratio, weight, 1 - np.array([10, 1]) * LEAST_RISK)
    beyond_Q = np.log10(np.maximum(LEAST_RISK / risk_Q, 1.0))
    within_Q = at_parts(ratio, weight, 1 - np.maximum(risk_Q, LEAST_RISK))
    return np.asarray(within_Q * (last / tenth) ** beyond_Q)


def mixture(own_N: FloatArray, prior_P: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return the ratios of the run and of others, and the weight of each."""
    weight = np.concatenate([np.ones(len(own_N)), np.full(len(prior_P), PRIOR_WINDOWS / len(prior_P))])
    return np.concatenate([own_N, prior_P]), weight


def need_quantiles(need_S: FloatArray, rows: int, risks: Sequence[float], prior: Prior) -> FloatArray:
    """Return what the need of the next rows stays below, but for each risk [Q]."""
    level, own_N = seen(need_S, rows)
    return level * quantile(*mixture(own_N, prior.ratio_P), risks)

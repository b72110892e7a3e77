"""Forecasts of the need of the next window: its quantiles, from the rows seen so far.

The need of a window is forecast as a level times a ratio. The level is the largest need of the last half window. The
ratios are those of the run's own past windows, each with weight 1, and those of other runs (`PRIOR`, fitted on `train`
recipes, mostly those with batches of the run's size), which together have the weight of `PRIOR_WINDOWS` windows. A
quantile of the mixture is the forecast.

Axis letters: S steps, N windows, P ratios of other runs, Q risks.
"""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from moeload_bench.arrays import FloatArray
from moeload_bench.files import PACKAGE
from moeload_bench.traces.meta import Stratum, stratum_of

PRIOR_WINDOWS = 5.0
"""Weight of the ratios of other runs, in windows of the run's own; chosen on `train`."""
TIMES = (0.7, 0.85, 1.0, 1.05, 1.1, 1.2, 1.35, 1.5, 2.0, 3.0, 5.0)
"""Times the level: the capacity factors at which dropped tokens are known of other runs."""
LEAST_RISK = 0.01
"""Smaller risks are extrapolated: the windows of `train` do not show them."""
MOST_RISK = 0.5
PRIOR = PACKAGE / "inspection" / "prior.json"


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
    kept = json.loads(PRIOR.read_text())
    return tuple(
        Prior(size, int(rows), np.array(one["ratio"]), np.array(one["dropped"]))
        for size, fitted in kept.items()
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

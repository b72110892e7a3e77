"""What a run measured of its own costs: step time, the part in expert modules, an expert's bytes, what imbalance costs.

Nothing is assumed. Axis letters: S rows, L MoE layers, R expert-parallel ranks, C columns of a regression, G lags.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from moeload_bench.arrays import Array, FloatArray, IntArray
from moeload_bench.errors import counted
from moeload_bench.forecaster import StepBlock
from moeload_bench.traces.meta import TraceMeta

TIMED = ("step_time_s", "expert_fraction", "expert_fraction_max")
"""Columns that are read."""
MOST_ROWS = 2048
"""Newest rows that are kept."""
LEAST_ROWS = 100
"""Rows from which on a slope is given."""
TIMES_MEDIAN = 3.0
"""A step so many times as long as the median evaluated or saved something: it is left out."""
NORMAL_95 = 1.959964


class ImbalanceCost(NamedTuple):
    """What steps take longer because one rank has more tokens than the mean one, in percent of the step time.

    ``low`` and ``high``: 95 % interval; ``rows``: steps that it rests on.
    """

    percent: float
    low: float
    high: float
    rows: int


class Measured(NamedTuple):
    """Constants of a run; None where they were not measured.

    ``expert_fraction``: of the step time, with all ranks equally loaded; ``timed``: steps that it is the median of.
    ``ranks``: expert-parallel ranks, 1 where the layout names none. ``not_timed``: why no part was measured.
    """

    step_ms: float | None
    expert_fraction: float | None
    timed: int
    not_timed: str
    weight_bytes: int | None
    state_bytes: int | None
    ranks: int
    imbalance: ImbalanceCost | None


def even_fraction(mean: Any, most: Any) -> Any:
    """Return the part of a step in experts if all ranks were equally loaded: the step would be shorter by the excess.

    For example 30 % on the mean rank and 40 % on the busiest: 0.3 / (1 - 0.1) = 33 % of the shorter step.
    """
    return mean / np.maximum(1 - most + mean, 1e-9)


class CostMeter:
    """Keeps the step times of the newest rows, with the load of their busiest rank."""

    def __init__(self, meta: TraceMeta) -> None:
        size = meta.parallel.get("expert", 1)
        divides = isinstance(size, int) and size > 1 and meta.experts % size == 0
        self.ranks = int(size) if divides else 1
        self._row_S5 = np.full((MOST_ROWS, 5), np.nan)

    def add(self, block: StepBlock) -> None:
        """Take in rows: seconds, the part in experts, tokens of the mean rank and of the busiest one, over layers."""
        if "step_time_s" not in block.covariates:
            return
        new_S5 = np.stack([*_times(block.covariates), *_loads(block.load_SLE, self.ranks)], axis=1)
        self._row_S5 = np.concatenate([self._row_S5, new_S5])[-MOST_ROWS:].copy()

    def measured(self, meta: TraceMeta) -> Measured:
        """Return what the rows so far say."""
        time_S, mean_S, most_S, even_S, busiest_S = self._row_S5.T
        known_S, timed_S = np.isfinite(time_S), np.isfinite(mean_S)
        part_S = even_fraction(mean_S[timed_S], most_S[timed_S])
        expert = meta.expert
        return Measured(
            step_ms=float(1000 * np.median(time_S[known_S])) if known_S.any() else None,
            expert_fraction=float(np.median(part_S)) if timed_S.any() else None,
            timed=int(timed_S.sum()),
            not_timed="" if expert is None else expert.not_timed,
            weight_bytes=None if expert is None else expert.weight_bytes,
            state_bytes=None if expert is None else expert.state_bytes,
            ranks=self.ranks,
            imbalance=None if self.ranks == 1 else imbalance_cost(time_S, even_S, busiest_S),
        )


def _times(columns: Mapping[str, Array]) -> list[FloatArray]:
    """Return step time, mean and largest part in experts of each row, NaN where not measured; three of [S]."""
    unknown_S = np.full(len(columns["step_time_s"]), np.nan)
    return [columns.get(name, unknown_S).astype(np.float64) for name in TIMED]


def _loads(load_SLE: IntArray, ranks: int) -> tuple[FloatArray, FloatArray]:
    """Return tokens of the mean rank and of the busiest rank, summed over layers, of each row; [S] each."""
    S, L, _ = load_SLE.shape
    load_SLR = load_SLE.reshape(S, L, ranks, -1).sum(axis=-1)
    return load_SLR.mean(axis=-1).sum(axis=-1), load_SLR.max(axis=-1).sum(axis=-1).astype(np.float64)


def imbalance_cost(time_S: FloatArray, even_S: FloatArray, busiest_S: FloatArray) -> ImbalanceCost | None:
    """Return what imbalance costs, from a regression of step times on loads; None from too few rows.

    time = a + b (busiest - even) + c even + d row, by least squares; the cost is b times the mean excess of the busiest
    rank, over the mean time. c takes up batches of other sizes, d a drift over the run. Its interval has the standard
    error of Newey and West (Econometrica 55, 1987, eq. 5), which allows for step times that depend on those before:
    (X'X)^-1 [G_0 + sum_g (1 - g / (m + 1)) (G_g + G_g')] (X'X)^-1, G_g = sum_s e_s e_(s-g) x_s x_(s-g)', with
    m = 4 (S / 100)^(2/9) lags.
    """
    good_S = np.isfinite(time_S)
    good_S[good_S] &= time_S[good_S] <= TIMES_MEDIAN * np.median(time_S[good_S]) if good_S.any() else True
    S = int(good_S.sum())
    if S < LEAST_ROWS:
        return None
    time_S, even_S, busiest_S = time_S[good_S], even_S[good_S], busiest_S[good_S]
    excess_S = busiest_S - even_S
    others_SC = np.stack([np.ones(S), even_S / max(1.0, even_S.mean()), np.arange(S) / S], axis=1)
    # only what the other columns do not explain of the excess tells b (Frisch and Waugh)
    fitted_SX = others_SC @ np.linalg.lstsq(others_SC, np.stack([excess_S, time_S], axis=1), rcond=None)[0]
    alone_S, rest_S = excess_S - fitted_SX[:, 0], time_S - fitted_SX[:, 1]
    square = float(alone_S @ alone_S)
    if square <= 1e-12 * float(excess_S @ excess_S):
        return None
    slope = float(alone_S @ rest_S) / square
    score_S = alone_S * (rest_S - slope * alone_S)
    lags = int(4 * (S / 100) ** (2 / 9))
    weight_G = 1 - np.arange(1, lags + 1) / (lags + 1)
    variance = float(score_S @ score_S + 2 * sum(w * (score_S[g:] @ score_S[:-g]) for g, w in enumerate(weight_G, 1)))
    half = NORMAL_95 * float(np.sqrt(max(0.0, variance))) / square
    scale = 100 * float(excess_S.mean() / time_S.mean())
    return ImbalanceCost(scale * slope, scale * (slope - half), scale * (slope + half), S)


def cost_sentences(costs: Measured) -> Iterator[str]:
    """Yield what was measured, and whether imbalance costs time at all."""
    parts = [] if costs.step_ms is None else [f"steps of {costs.step_ms:,.4g} ms (median)"]
    if costs.expert_fraction is not None:
        steps = counted(costs.timed, "step")
        parts.append(f"{100 * costs.expert_fraction:.0f} % of a step in expert modules (median of {steps})")
    if costs.weight_bytes is not None:
        size = (costs.weight_bytes + (costs.state_bytes or 0)) / 1e6
        what = "weights alone" if costs.state_bytes is None else "weights and optimizer"
        parts.append(f"{size:,.4g} MB per expert ({what})")
    yield f"Measured: {'; '.join(parts) or 'nothing of what steps and experts cost'}."
    if costs.expert_fraction is None and (costs.not_timed or parts):
        yield f"Time in expert modules: not measured ({costs.not_timed or 'no step was timed'})."
    yield f"Does imbalance cost time? {_imbalance(costs)}"


def _imbalance(costs: Measured) -> str:
    """Return the answer of the regression, or why there is none."""
    if costs.ranks == 1:
        return "One expert-parallel rank: cannot be measured."
    cost = costs.imbalance
    if cost is None:
        return f"Cannot tell: {LEAST_ROWS} timed steps are needed, in which the busiest rank's load varies."
    interval = f"{cost.percent:.1f} % of the step time ({cost.low:.1f} to {cost.high:.1f} %, 95 % interval"
    words = f"{interval} over {cost.rows:,} steps, {costs.ranks} ranks)"
    if cost.low > 0:
        return f"Yes: {words}."
    return f"Not seen: {words}." if cost.high > 0 else f"No: steps are not longer where one rank has more: {words}."

"""How far loads are above the even share, and what capacity factors drop or overflow because of it.

Capacity acts in each micro-batch on each rank, but a trace holds sums over steps. Micro-batches are less even than
their sum, so the steps' loads give a lower bound. The column `micro_max`, times the number of forward passes in a step,
gives an upper one: it takes all passes of a step to be like each expert's largest.

Axis letters: S steps, L MoE layers, E experts, R ranks, K factors of the grid.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from moeload_bench.arrays import Array, FloatArray
from moeload_bench.errors import PlacementError
from moeload_bench.ops.facts.balance import rank_sums
from moeload_bench.traces.streaming import parts
from moeload_bench.traces.trace import Trace

MICRO = "micro_max"
"""The optional column of a trace with the largest load of each expert in one micro-batch."""
GRID = 0.01
"""Factors are multiples of it."""
CONFIDENCE = 0.95


class Loads(NamedTuple):
    """Loads to compare with the even share: a column of a trace, and how many passes each of its loads stands for."""

    trace: Trace
    column: str
    passes: int

    def ratios(self, rows: slice, sharers: int) -> tuple[FloatArray, FloatArray]:
        """Return loads over the even share of so many sharers of the experts [S, L, R], and that share [S, L]."""
        load_SLE = self.trace.load_SLE[rows]
        counted_SLE: Array = load_SLE if self.column == "load" else self.trace.columns[self.column][rows]
        (load_SLR,) = rank_sums(counted_SLE, (sharers,))
        even_SL = np.einsum("sle->sl", load_SLE) / sharers  # takes a quarter of the time of `sum` along a short axis
        scale_SL = np.divide(self.passes, even_SL, out=np.zeros_like(even_SL), where=even_SL > 0)
        return np.minimum(load_SLR * scale_SL[..., None], most_need(self.trace, sharers)), even_SL


class Excess(NamedTuple):
    """Of each layer the tokens above each factor of the grid [L, K], and all tokens [L]."""

    over_LK: FloatArray
    tokens_L: FloatArray

    def pooled(self) -> Excess:
        """Return all layers as one."""
        return Excess(self.over_LK.sum(axis=0, keepdims=True), self.tokens_L.sum(keepdims=True))

    def dropped(self, factor: float) -> float:
        """Return the part of the worst layer's tokens that a factor drops."""
        place = min(round(factor / GRID), self.over_LK.shape[1] - 1)
        return float((self.over_LK[:, place] / np.maximum(self.tokens_L, 1)).max())

    def factors(self, drop: float) -> list[float]:
        """Return each layer's least factor that drops at most this part [L]."""
        places_L = (self.over_LK > drop * self.tokens_L[:, None]).sum(axis=1)
        return [round(place * GRID, 2) for place in places_L.tolist()]


def most_need(trace: Trace, sharers: int) -> float:
    """Return the largest load over the even share that routing allows, of one of so many sharers of the experts.

    A token goes to an expert once, so before drops an expert has at most 1 / top-k of a layer's load.
    """
    top_k = trace.meta.top_k if trace.meta.count_semantics == "pre_drop" else None
    return min(sharers, trace.num_experts / (top_k or 1))


def check_devices(experts: int, devices: int) -> None:
    """Raise `PlacementError` for devices that cannot hold equally many experts."""
    if devices < 1 or experts % devices:
        fitting = ", ".join(str(d) for d in range(1, experts + 1) if experts % d == 0)
        raise PlacementError(
            f"--devices is {devices}, expected a divisor of the {experts} experts, each device holding as many: "
            f"{fitting}"
        )


def excess(loads: Loads, rows: range) -> Excess:
    """Return what is above each factor in some rows.

    It is exact: a bin of the histogram of ratios keeps their number and their sum.
    """
    trace = loads.trace
    E, L = trace.num_experts, trace.num_layers
    K = math.ceil(most_need(trace, E) / GRID) + 2
    total = Excess(np.zeros((L, K)), np.zeros(L))
    for part in parts((len(rows), L, E)):
        ratio_SLE, even_SL = loads.ratios(slice(rows.start + part.start, rows.start + part.stop), E)
        place_SLE = (ratio_SLE / GRID).astype(np.int64) + K * np.arange(L)[:, None]
        even_SLE = np.broadcast_to(even_SL[..., None], ratio_SLE.shape)
        shares, sums = (
            np.bincount(place_SLE.ravel(), weight.ravel(), L * K).reshape(L, K)
            for weight in (even_SLE, even_SLE * ratio_SLE)
        )
        shares_LK, sums_LK = (np.cumsum(bin_LK[:, ::-1], axis=1)[:, ::-1] for bin_LK in (shares, sums))
        over_LK = sums_LK - GRID * np.arange(K) * shares_LK
        over_LK[over_LK <= 1e-9 * sums_LK] = 0  # a ratio on the grid is not above itself
        total = Excess(total.over_LK + over_LK, total.tokens_L + even_SL.sum(axis=0) * E)
    return total


def rank_needs(loads: Loads, rows: range, devices: int) -> FloatArray:
    """Return the load of the busiest rank over the even share, the largest of all layers [S].

    Each rank holds as many experts, in the order of their numbers.
    """
    shape = (len(rows), *loads.trace.load_SLE.shape[1:])
    slices = (slice(rows.start + part.start, rows.start + part.stop) for part in parts(shape))
    return np.concatenate([loads.ratios(part, devices)[0].max(axis=(1, 2)) for part in slices])


def least_factor(need_S: FloatArray, over: int) -> float:
    """Return the least factor of the grid that at most so many steps exceed."""
    place = min(over, len(need_S) - 1)
    return round(math.ceil(round(float(np.sort(need_S)[::-1][place]) / GRID, 6)) * GRID, 2)


def effective_steps(need_S: FloatArray) -> float:
    """Return as how many independent steps these count.

    Steps over the sum of autocorrelations, up to the first that is not positive: needs of steps that follow each other
    are alike, so that many steps without a re-run say less than they seem to.
    """
    deviation_S = need_S - need_S.mean()
    variance = float(deviation_S @ deviation_S)
    if variance <= 1e-12 * len(need_S):
        return float(len(need_S))
    spectrum = np.abs(np.fft.rfft(deviation_S, 2 * len(need_S))) ** 2
    correlation_S = np.fft.irfft(spectrum)[: len(need_S)] / variance
    negative = np.flatnonzero(correlation_S <= 0)
    last = int(negative[0]) if negative.size else len(need_S)
    return len(need_S) / float(1 + 2 * correlation_S[1:last].sum())


def unseen_limit(steps: float) -> float:
    """Return what part of steps something stays below, at 95 %, that none of so many independent ones had."""
    return float(1 - (1 - CONFIDENCE) ** (1 / steps))

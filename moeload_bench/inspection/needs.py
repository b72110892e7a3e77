"""The need of a run: the largest load over the even share, read from the trace in parts.

Axis letters: S steps, L MoE layers, E experts, D devices, F factors.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from moeload_bench.arrays import Array, FloatArray, IntArray
from moeload_bench.errors import PlacementError
from moeload_bench.traces.streaming import parts
from moeload_bench.traces.trace import Trace

MICRO = "micro_max"
"""The optional column of a trace with the largest load of each expert in one micro-batch."""


def expert_needs(trace: Trace) -> FloatArray:
    """Return the load of the busiest expert over the even share, [S, L]; 1 where a layer had no load."""
    return _over_even(trace, lambda rows: trace.load_SLE[rows].max(axis=2), trace.num_experts)


def device_needs(trace: Trace, devices: int) -> FloatArray:
    """Return the load of the busiest device over the even share of devices, [S, L].

    Each device holds E / D experts, in the order of their numbers. Raise `PlacementError` if D does not divide E.
    """
    experts = trace.num_experts
    if devices < 1 or experts % devices:
        fitting = ", ".join(str(d) for d in range(1, experts + 1) if experts % d == 0)
        raise PlacementError(
            f"--devices is {devices}, expected a divisor of the {experts} experts, each device holding as many: "
            f"{fitting}"
        )

    def busiest(rows: slice) -> IntArray:
        load_SLE = trace.load_SLE[rows]
        return np.asarray(load_SLE.reshape(*load_SLE.shape[:2], devices, -1).sum(axis=3).max(axis=2))

    return _over_even(trace, busiest, devices)


def micro_needs(trace: Trace) -> FloatArray | None:
    """Return the busiest expert's load of one micro-batch over the even share of a step, [S, L].

    None if the trace does not hold the loads of micro-batches.
    """
    if MICRO not in trace.columns:
        return None
    column = trace.columns[MICRO]
    return _over_even(trace, lambda rows: column[rows].max(axis=2), trace.num_experts)


def _over_even(trace: Trace, busiest: Callable[[slice], Array], sharers: int) -> FloatArray:
    need_SL = np.ones((trace.steps, trace.num_layers))
    for rows in parts(trace.load_SLE.shape):
        total_SL = totals(trace.load_SLE[rows])
        np.divide(busiest(rows) * float(sharers), total_SL, out=need_SL[rows], where=total_SL > 0)
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

    Windows and levels are those of `forecast.seen`; ``need_S`` is the largest need over layers. Only rows that need
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

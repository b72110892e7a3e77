"""Traces that look like a suite's and are not: what a forecaster that memorised the suite does badly on.

- `permuted_and_shifted`: the experts of each layer renumbered at random, the first steps cut off. Memory that is keyed
  by step or by expert fails.
- `future_altered`: the past of one origin as it was; after it the shares move as far as they did, the other way. Memory
  that recognises the past, however it is keyed, says the old future.

An honest forecaster's loss relative to that of `TRACKER` stays about what it was; a memoriser's grows.
Axis letters: S steps, L MoE layers, E experts.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from moeload_bench.results.record import TaskResult
from moeload_bench.traces.meta import COLUMNS
from moeload_bench.traces.trace import Trace

LEVEL_ROWS = 50  # to either side of the origin: little noise, and a steady drift cancels
TRACKER = "sw_avg@window=10"  # what losses are compared with: a short memory, which a shift of the start leaves alone
CLIP = 20.0  # ratios of losses are kept within 1/CLIP .. CLIP, as in the skill


def permuted_and_shifted(trace: Trace, rows: int, rng: np.random.Generator) -> Trace:
    """The trace without its first ``rows`` rows, steps counted from its old first step, experts renumbered by layer."""
    L, E = trace.num_layers, trace.num_experts
    order_LE = np.argsort(rng.random((L, E)), axis=1)
    columns = {}
    for name, column in trace.columns.items():
        cut = column[rows:]
        per_expert = COLUMNS[name].axes == "LE"
        columns[name] = np.take_along_axis(cut, order_LE[None], axis=2) if per_expert else cut.copy()
    load_SLE = np.take_along_axis(trace.load_SLE[rows:], order_LE[None], axis=2)
    step_S = trace.step_S[: trace.steps - rows].copy()
    return Trace(trace.meta, step_S, trace.tokens_SL[rows:].copy(), load_SLE, columns)


def future_altered(trace: Trace, row: int, end: int) -> Trace:
    """The rows before ``row`` as they are, those up to ``end`` mirrored at the mean share around ``row``.

    The totals of each layer and step stay; the covariates of the altered rows, which no forecaster sees before it is
    asked at ``row``, are made to fit the format.
    """
    share_SLE = np.nan_to_num(trace.share_SLE(), nan=1 / trace.num_experts)
    around = min(LEVEL_ROWS, row, end - row)
    level_LE = share_SLE[row - around : row + around].mean(axis=0)
    mirrored = np.clip(2 * level_LE - share_SLE[row:end], 0, None) + 1e-12
    mirrored /= mirrored.sum(axis=2, keepdims=True)
    load_SLE = trace.load_SLE[:end].copy()
    load_SLE[row:] = _counts(mirrored, load_SLE[row:].sum(axis=2))
    columns = {name: column[:end].copy() for name, column in trace.columns.items()}
    for name in ("load_half", "dropped"):
        if name in columns:
            columns[name][row:] = np.minimum(columns[name][row:], load_SLE[row:])
    return Trace(trace.meta, trace.step_S[:end].copy(), trace.tokens_SL[:end].copy(), load_SLE, columns)


def relative_loss(tasks: Iterable[TaskResult], reference: Iterable[TaskResult], metric: str = "window_tv") -> float:
    """Geometric mean over tasks and horizons of the loss over the reference's, each ratio kept within 1/20 .. 20."""
    logs = []
    for mine, theirs in zip(tasks, reference, strict=True):
        for one, other in zip(mine.metrics[metric], theirs.metrics[metric], strict=True):
            if one is not None and other is not None:
                logs.append(np.log(np.clip(max(one, 1e-9) / max(other, 1e-9), 1 / CLIP, CLIP)))
    return float(np.exp(np.mean(logs))) if logs else 1.0


def _counts(share_SLE: NDArray[np.float64], total_SL: NDArray[np.int64]) -> NDArray[np.int64]:
    """Whole numbers near share times total that sum to the total: the largest remainders get one more."""
    exact = share_SLE * total_SL[:, :, None]
    counts = np.floor(exact).astype(np.int64)
    left_SL = total_SL - counts.sum(axis=2)
    rank_SLE = np.argsort(np.argsort(counts - exact, axis=2, kind="stable"), axis=2, kind="stable")
    return np.asarray(counts + (rank_SLE < left_SL[:, :, None]), dtype=np.int64)

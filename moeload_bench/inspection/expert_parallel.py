"""The expert-parallel table: for every size that divides the experts, how much busier the busiest rank is.

Rank r of R holds experts r E / R to (r + 1) E / R - 1. The whole batch is taken as one pass of one expert-parallel
group: with several groups or micro-batches each is less even, so that the numbers are a lower bound.

Axis letters: S rows, L MoE layers, E experts, R ranks, K expert-parallel sizes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from moeload_bench.arrays import FloatArray, IntArray
from moeload_bench.inspection.balance import rank_sums
from moeload_bench.traces.means import mean_over
from moeload_bench.traces.trace import shares


@dataclass(frozen=True, eq=False)
class RankTable:
    """By expert-parallel size (``size_K``, the last one is an expert on each rank), and layer.

    ``busiest_KL``: load of the busiest rank over the mean rank, mean over rows. ``low_KL`` and ``high_KL``: the two
    ends of what noise alone would give; they are equal where half batches were recorded, and NaN where unknown.
    ``tokens_KL``: the most tokens that a rank received in one row, a token counted once per expert that it goes to.
    """

    size_K: tuple[int, ...]
    busiest_KL: FloatArray
    low_KL: FloatArray
    high_KL: FloatArray
    tokens_KL: IntArray


def sizes_of(experts: int) -> tuple[int, ...]:
    """Return the expert-parallel sizes that divide the experts, from 2 up; (1,) for a single expert."""
    return tuple(size for size in range(2, experts + 1) if experts % size == 0) or (1,)


def busiest_ranks(load_SLE: IntArray, size: int) -> tuple[FloatArray, IntArray]:
    """Return the busiest rank over the mean, mean over rows [L], and the most tokens on a rank in a row [L]."""
    load_SLR = rank_sums(load_SLE, size)
    busiest_SL = shares(load_SLR).max(axis=-1)
    most_L = load_SLR.max(axis=(0, -1), initial=0)
    return size * mean_over(busiest_SL, axis=0), np.asarray(most_L, dtype=np.int64)

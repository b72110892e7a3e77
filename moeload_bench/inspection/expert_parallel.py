"""The expert-parallel table: for every size that divides the experts, how much busier the busiest rank is.

Rank r of R holds experts r E / R to (r + 1) E / R - 1. The whole batch is taken as one pass of one expert-parallel
group: with several groups or micro-batches each is less even, so that the numbers are a lower bound.

Axis letters: S rows, L MoE layers, E experts, R ranks, K expert-parallel sizes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from moeload_bench.arrays import Array, FloatArray, IntArray
from moeload_bench.traces.means import mean_over, ratio_of


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


def rank_sums(values_SLE: Array, sizes: Sequence[int]) -> list[Array]:
    """Return the sums over each rank's consecutive experts, [S, L, R] for each size.

    Those of few ranks are made of those of more, where one divides the other.
    """
    sums = {values_SLE.shape[-1]: values_SLE}
    for size in sorted(sizes, reverse=True):
        more = min(known for known in sums if known % size == 0)
        if more != size:
            parts = sums[more].reshape(*values_SLE.shape[:-1], size, more // size)
            sums[size] = np.einsum("...rm->...r", parts)
    return [sums[size] for size in sizes]


def busiest_ranks(load_SLR: IntArray) -> tuple[FloatArray, IntArray]:
    """Return the busiest rank over the mean, mean over rows [L], and the most tokens on a rank in a row [L]."""
    most_SL = load_SLR.max(axis=-1)
    busiest_SL = ratio_of(most_SL, np.einsum("slr->sl", load_SLR))
    return load_SLR.shape[-1] * mean_over(busiest_SL, axis=0), np.asarray(most_SL.max(axis=0), dtype=np.int64)

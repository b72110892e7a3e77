"""Balance: how much busier the busiest rank of each expert-parallel size is, and what noise alone would give.

Rank r of R holds experts r E / R to (r + 1) E / R - 1; with an expert on each rank it is the busiest expert. The whole
batch is taken as one pass of one expert-parallel group: with several groups or micro-batches each is less even, so that
the numbers are a lower bound.

A step routes a limited number of tokens, so its busiest expert is above the mean even where the router favours none.
That excess is measured around equal probabilities: noise around the present means would give nearly what is seen.

Axis letters: S rows, U units of time, L MoE layers, E experts, R expert-parallel ranks, K expert-parallel sizes.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from moeload_bench.arrays import Array, BoolArray, FloatArray, IntArray
from moeload_bench.forecaster import StepBlock
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


def rank_table(rows: StepBlock, share_SLE: FloatArray, top_k_L: FloatArray) -> RankTable:
    """Return the table of some rows. ``top_k_L``: as in `sampling_alone`."""
    E, half_SLE = share_SLE.shape[2], rows.covariates.get("load_half")
    sizes = sizes_of(E)
    busiest, tokens = zip(*(busiest_ranks(load_SLR) for load_SLR in rank_sums(rows.load_SLE, sizes)), strict=True)
    mean_LE = mean_over(share_SLE, axis=0)
    if half_SLE is None:
        sampled_KL = np.stack([sampling_alone(rows.tokens_SL, E, top_k_L, size) for size in sizes])
        measured_KL = _row_noise(share_SLE, mean_LE, sizes)
        low_KL, high_KL = np.minimum(sampled_KL, measured_KL), np.maximum(sampled_KL, measured_KL)
    else:
        low_KL = high_KL = _noise_of(half_differences(rows.load_SLE, half_SLE), mean_LE, sizes)
    return RankTable(sizes, np.stack(busiest), low_KL, high_KL, np.stack(tokens))


def _noise_of(different_SLE: FloatArray, mean_LE: FloatArray, sizes: Sequence[int]) -> FloatArray:
    """Return what noise alone gives by size and layer; [K, L]. ``different_SLE`` varies as the noise of a row does."""
    sums = rank_sums(around_equal(different_SLE, mean_LE), sizes)
    return np.stack([noise_alone(moved_SLR) for moved_SLR in sums])


def _row_noise(share_SLE: FloatArray, mean_LE: FloatArray, sizes: Sequence[int]) -> FloatArray:
    """Return the upper end of noise alone, by differences of rows, the least over rows 1 to APART apart; [K, L].

    Whatever loads do between two rows only adds to their difference, and rows a period apart hold nothing of a swing.
    """
    most = max(1, min(APART, len(share_SLE) - 1))
    noise_KL = (_noise_of(row_differences(share_SLE, apart), mean_LE, sizes) for apart in range(1, most + 1))
    return np.asarray(functools.reduce(np.fmin, noise_KL))


def expert_noise(rows: StepBlock, share_ULE: FloatArray, top_k_L: FloatArray) -> FloatArray:
    """Return what noise alone gives for the busiest expert in each unit [U, L]: draws alone without half batches."""
    U, L, E = share_ULE.shape
    half_SLE = rows.covariates.get("load_half")
    if half_SLE is None:
        by_unit = rows.tokens_SL.reshape(U, -1, L)
        return np.stack([sampling_alone(tokens_SL, E, top_k_L, E) for tokens_SL in by_unit])
    deviation_SLE = half_differences(rows.load_SLE, half_SLE)
    moved_UsLE = around_equal(deviation_SLE.reshape(U, -1, L, E), share_ULE[:, None])
    return np.asarray(1.0 + E * mean_over(half_range(moved_UsLE), axis=1))


def rank_sums(values_SLE: Array, sizes: Sequence[int]) -> list[Array]:
    """Return the sums over each rank's consecutive experts, [S, L, R] for each size.

    Those of few ranks are made of those of more, where one divides the other.
    """
    sums = {values_SLE.shape[-1]: values_SLE}
    for size in sorted(sizes, reverse=True):
        more = min(count for count in sums if count % size == 0)
        if more != size:
            parts = sums[more].reshape(*values_SLE.shape[:-1], size, more // size)
            sums[size] = np.einsum("...rm->...r", parts)
    return [sums[size] for size in sizes]


def busiest_ranks(load_SLR: IntArray) -> tuple[FloatArray, IntArray]:
    """Return the busiest rank over the mean, mean over rows [L], and the most tokens on a rank in a row [L]."""
    most_SL = load_SLR.max(axis=-1)
    busiest_SL = ratio_of(most_SL, np.einsum("slr->sl", load_SLR))
    return load_SLR.shape[-1] * mean_over(busiest_SL, axis=0), np.asarray(most_SL.max(axis=0), dtype=np.int64)


def half_differences(load_SLE: IntArray, half_SLE: IntArray) -> FloatArray:
    """Return half the difference of the shares a, b of a step's two halves: it varies as the whole batch's share does.

    Halves of unequal size A, B are weighted by sqrt(A B) / (A + B), which is 1/2 for equal ones. NaN where a half is
    empty.
    """
    a_SL = np.einsum("sle->sl", half_SLE).astype(np.float64)
    b_SL = np.einsum("sle->sl", load_SLE) - a_SL
    weight_SL = np.where((a_SL > 0) & (b_SL > 0), np.sqrt(a_SL * b_SL) / np.maximum(a_SL + b_SL, 1.0), np.nan)
    with np.errstate(divide="ignore", invalid="ignore"):
        of_half_SL, of_load_SL = weight_SL * (1.0 / a_SL + 1.0 / b_SL), weight_SL / b_SL
    difference_SLE = half_SLE * of_half_SL[..., None]  # a - b = half / A - (load - half) / B
    difference_SLE -= load_SLE * of_load_SL[..., None]
    return np.asarray(difference_SLE)


APART = 4
"""The most rows between two whose difference bounds noise: loads swing over 2 to 4 rows where balancing answers each
step too strongly. More would only cost time.
"""


def row_differences(share_SLE: FloatArray, apart: int = 1) -> FloatArray:
    """Return the differences of rows over sqrt(2), [S - apart, L, E]: they vary as a row does if loads stay."""
    return np.asarray((share_SLE[apart:] - share_SLE[:-apart]) / math.sqrt(2.0))


def around_equal(deviation_SLE: FloatArray, mean_LE: FloatArray) -> FloatArray:
    """Return deviations as they would be around 1 / E: the variance of a share is proportional to the share.

    An expert without any load has no deviation.
    """
    scale_LE = np.sqrt(ratio_of(np.full_like(mean_LE, 1.0 / mean_LE.shape[-1]), mean_LE))
    scale_LE[mean_LE == 0] = 0.0
    return np.asarray(deviation_SLE * scale_LE)


def noise_alone(deviation_SLR: FloatArray) -> FloatArray:
    """Return R x the mean over rows and signs s of max_r(1 / R + s x a rank's deviation); [L].

    ``deviation_SLR`` is that of `around_equal`, summed over each rank's experts; with an expert on each rank it is the
    busiest expert's. Both signs are as likely as each other, so their mean is half of the largest less the smallest.
    """
    return np.asarray(1.0 + deviation_SLR.shape[-1] * mean_over(half_range(deviation_SLR), axis=0))


def half_range(values_SLR: FloatArray) -> FloatArray:
    """Return half of the largest less the smallest value of each row and layer; [S, L]."""
    return np.asarray((values_SLR.max(axis=-1) - values_SLR.min(axis=-1)) / 2.0)


def sampling_alone(tokens_SL: IntArray, experts: int, top_k_L: FloatArray, ranks: int) -> FloatArray:
    """Return what random draws of top-k experts for each token give, all experts equally likely; [L].

    The least noise there is: tokens of one sequence choose alike. A rank's count varies by m v (E - m) / (E - 1) with
    v = (1 - k / E) / (E k T) for T tokens, m experts on a rank and draws without replacement; counts are taken as
    normal. No noise (1) where top-k is unknown, as for counts that were made from shares.
    """
    if ranks == 1:
        return np.ones(tokens_SL.shape[1])
    m = experts // ranks
    v_SL = ratio_of(np.maximum(1.0 - top_k_L / experts, 0.0), experts * top_k_L * tokens_SL)
    spread_SL = np.sqrt(v_SL * m * (experts - m) / (experts - 1))
    return np.nan_to_num(1.0 + ranks * largest_of(ranks) * mean_over(spread_SL, axis=0), nan=1.0)


@functools.cache
def largest_of(number: int) -> float:
    """Return the expected largest of so many normal values that sum to 0 and have variance 1."""
    grid = np.linspace(-9.0, 9.0, 3601)
    below = np.array([0.5 * math.erfc(-x / math.sqrt(2.0)) for x in grid.tolist()]) ** number
    largest = grid[-1] - float(((below[1:] + below[:-1]) / 2.0).sum() * (grid[1] - grid[0]))
    return float(largest * math.sqrt(number / (number - 1)))


NOISE_CORRELATION = (-0.55, -0.30)
"""Between these, neighbouring differences of rows correlate as those of noise do (-1/2).

Chosen on the `train` runs, of which half batches say the noise: in 1,350 layers and windows of 200 rows, differences of
rows overstate the excess of noise by 0 to 9 % in the median between these bounds, and by 14 to 200 % outside.
"""


def oscillates(share_SLE: FloatArray) -> BoolArray:
    """Return whether loads swing from row to row by more than noise; [L].

    Noise around loads that stay makes neighbouring differences of rows correlate by -1/2. Loads that alternate take it
    towards -1, slower waves and steady moves towards 1. False where nothing differs.
    """
    step_SLE = np.diff(share_SLE, axis=0)
    both_L = np.nansum(np.einsum("sle,sle->sl", step_SLE[1:], step_SLE[:-1]), axis=0)
    own_L = np.nansum(np.einsum("sle,sle->sl", step_SLE, step_SLE), axis=0)
    correlation_L = ratio_of(both_L, own_L)
    low, high = NOISE_CORRELATION
    return np.asarray((correlation_L < low) | (correlation_L > high))


def entropy_of(share_LE: FloatArray) -> FloatArray:
    """Return the entropy of mean shares over ln E, 1 for even loads; [L]."""
    E = share_LE.shape[1]
    if E == 1:
        return np.ones(len(share_LE))
    positive_LE = np.where(share_LE > 0, share_LE, 1.0)
    entropy_L = -(positive_LE * np.log(positive_LE)).sum(axis=1) / np.log(E)
    return np.where(np.isfinite(share_LE[:, 0]), entropy_L, np.nan)


def micro_batch_balance(recent: StepBlock) -> FloatArray | None:
    """Return the unevenness within micro-batches, mean over rows; None if not recorded."""
    ratio_SL = recent.covariates.get("imbalance_rank")
    return None if ratio_SL is None else mean_over(ratio_SL.astype(np.float64), axis=0)


def dropped_part(recent: StepBlock) -> FloatArray | None:
    """Return the fraction of routed tokens that was dropped, over all rows; None if not recorded."""
    if "dropped" not in recent.covariates:
        return None
    dropped_L, load_L = (np.einsum("sle->l", column) for column in (recent.covariates["dropped"], recent.load_SLE))
    return ratio_of(dropped_L, load_L)

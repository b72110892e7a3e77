"""Find out whether a trace is a copy of another: renamed, permuted, cut, sampled, or with only part of its tokens.

Two trainings never route alike, so what only a copy can share gives a copy away. Two tests are needed:

- Equal rows, up to the order of experts. They find a copy with intact counts, even if steps and layers are renamed.
- Equal mean shares, and equal movement of single steps. They find a copy that leaves tokens out: shares averaged over
  many steps change only by the sampling noise of what was left out, and an expert's extra tokens in one step still
  show.

Neither part of the second test is enough alone: balanced trainings have similar mean shares, and trainings on the same
order of the data have similar single steps (docs/guide/hub.md has the numbers).

Axis letters: S rows, L MoE layers, E experts, W windows, M the experts that move most.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from moeload_bench.arrays import FloatArray, IntArray
from moeload_bench.traces.trace import Trace

SHARED_ROWS = 0.05
"""A trace is a copy if at least this fraction of its layer-steps is equal."""
NOISE = 5.0
"""Mean shares may be a copy's if they differ by less than this multiple of the noise of left-out tokens."""
SINGLE_STEPS = 0.25
"""A trace with a copy's mean shares is a copy if its single steps correlate at least this much."""
OUTLIER = 3.0
"""Clip single steps to this many standard deviations: one wild step in each trace must not make them look alike."""
SMOOTHED = 21
"""Rows of the moving mean that is subtracted from single steps."""
WINDOW = 200
"""Rows in one mean; fewer where a trace is short."""
LEAST_WINDOWS = 4
SHIFT = 10
"""Rows between two places at which a shorter trace is compared with a longer one."""


def duplicate_of(trace: Trace, known: Trace) -> str | None:
    """Return why ``trace`` is a copy of ``known``, or None if it is not. Names, step numbers and metadata play no part.

    It finds copies with experts or layers in another order, cut, sampled every n steps, with steps renumbered, with a
    random part of the tokens (such as `load_half`), also cut, and with experts added or left out that never have load.
    It does not find copies that are sampled *and* thinned, or whose experts were added up.
    """
    experts = min(trace.num_experts, known.num_experts)
    if max(live_experts(trace.load_SLE), live_experts(known.load_SLE)) > experts:
        return None
    load_SLE, known_SLE = (_busiest(one.load_SLE[:], experts) for one in (trace, known))
    equal = equal_rows(load_SLE, known_SLE)
    if equal > SHARED_ROWS:
        return f"{100 * equal:.0f} % of its layer-steps have the counts of {known.id}, up to the order of experts"
    if share_distance(load_SLE, known_SLE) >= NOISE:
        return None
    correlation = step_correlation(load_SLE, known_SLE)
    if correlation < SINGLE_STEPS:
        return None
    return f"its mean shares are those of {known.id}, and its single steps are alike (correlation {correlation:.2f})"


def live_experts(load_SLE: IntArray) -> int:
    """Return the number of experts that ever have load, in the layer with the most of them."""
    return int(load_SLE[:].any(axis=0).sum(axis=1).max(initial=0))


def _busiest(load_SLE: IntArray, experts: int) -> IntArray:
    """Return the loads of each layer's ``experts`` busiest experts; the others are taken to have none."""
    if experts == load_SLE.shape[2]:
        return load_SLE
    order_LE = np.argsort(-load_SLE.sum(axis=0), axis=1, kind="stable")[:, :experts]
    return np.take_along_axis(load_SLE, order_LE[None], axis=2)


def equal_rows(load_SLE: IntArray, other_SLE: IntArray) -> float:
    """Return the fraction of layer-steps whose counts also occur in the other trace, up to the order of experts.

    Return 0 if counts say too little: when half of the other trace's layer-steps are equal to one another.
    """
    there = np.unique(_fingerprints(other_SLE))
    if len(there) < 0.5 * other_SLE.shape[0] * other_SLE.shape[1]:
        return 0.0
    return float(np.isin(_fingerprints(load_SLE), there).mean())


def _fingerprints(load_SLE: IntArray) -> NDArray[np.uint64]:
    """Return a number for each layer-step's counts, the same for any order of the experts."""
    S, L, E = load_SLE.shape
    # fixed odd multipliers of 64 bits: equal counts give equal numbers, others collide with a chance of about 2^-64
    word_E = np.random.RandomState(0).randint(0, 2**63 - 1, size=E, dtype=np.int64).astype(np.uint64) * 2 + 1
    with np.errstate(over="ignore"):
        number: NDArray[np.uint64] = (np.sort(load_SLE, axis=2).astype(np.uint64) * word_E).sum(axis=2, dtype=np.uint64)
    return number.reshape(S * L)


def share_distance(load_SLE: IntArray, other_SLE: IntArray) -> float:
    """Return how far mean shares are apart, in units of the noise from leaving tokens out; the median over layers.

    Shares are means over windows of rows, sorted within each window and layer, so that the order of experts plays no
    part. Each layer is compared with the nearest layer of the other trace. A shorter trace is compared at every
    `SHIFT`-th row of the longer one, and the nearest place counts. The distance is infinite if a trace is too short to
    tell.
    """
    long_SLE, short_SLE = (other_SLE, load_SLE) if len(other_SLE) >= len(load_SLE) else (load_SLE, other_SLE)
    window = min(WINDOW, len(short_SLE) // LEAST_WINDOWS)
    if window < 1:
        return float("inf")
    edge_W = np.arange(0, len(short_SLE) // window * window + 1, window)
    long_before_SLE, short_before_SLE = _before(long_SLE), _before(short_SLE)
    short = _sorted_shares(np.diff(short_before_SLE[edge_W], axis=0))
    places = range(0, len(long_SLE) - len(short_SLE) + 1, SHIFT)
    return min(_distance(*short, *_sorted_shares(np.diff(long_before_SLE[place + edge_W], axis=0))) for place in places)


def _before(load_SLE: IntArray) -> IntArray:
    """Return the sum of all loads before each row, and after the last one; [S + 1, L, E]."""
    return np.concatenate([np.zeros((1, *load_SLE.shape[1:]), dtype=np.int64), load_SLE.cumsum(axis=0)])


def step_correlation(load_SLE: IntArray, other_SLE: IntArray) -> float:
    """Return the largest correlation between single steps of the first layer's experts and of any expert of the other.

    Single steps are shares less their moving mean. All shifts of rows are tried, and of the first layer only the two
    experts that move most. Two trainings on the same order of the data also correlate to some degree.
    """
    movers = np.argsort(-load_SLE[:, 0].var(axis=0))[:2]
    size = 1 << (len(load_SLE) + len(other_SLE) - 1).bit_length()
    left_SM = np.conj(np.fft.rfft(_single_steps(load_SLE[:, 0])[:, movers], size, axis=0))
    most = 0.0
    for layer in range(other_SLE.shape[1]):  # one at a time, to save memory
        right_SE = np.fft.rfft(_single_steps(other_SLE[:, layer]), size, axis=0)
        for mover in range(left_SM.shape[1]):
            most = max(most, float(np.fft.irfft(right_SE * left_SM[:, mover, None], size, axis=0).max()))
    return most / min(len(load_SLE), len(other_SLE))


def _single_steps(load_SE: IntArray) -> FloatArray:
    """Return a layer's shares less their moving mean, in standard deviations, clipped at `OUTLIER`; [S, E]."""
    share_SE = load_SE / np.maximum(1, load_SE.sum(axis=1, keepdims=True))
    S, half = len(share_SE), SMOOTHED // 2
    before_SE = np.concatenate([np.zeros((1, share_SE.shape[1])), share_SE.cumsum(axis=0)])
    first_S, after_S = np.clip(np.arange(S) - half, 0, S), np.clip(np.arange(S) + half + 1, 0, S)
    step_SE = share_SE - (before_SE[after_S] - before_SE[first_S]) / (after_S - first_S)[:, None]
    size_E = np.sqrt(np.square(step_SE).mean(axis=0))
    return np.asarray(np.clip(step_SE / np.where(size_E > 0, size_E, 1.0), -OUTLIER, OUTLIER))


def _sorted_shares(load_WLE: IntArray) -> tuple[FloatArray, FloatArray]:
    """Return shares [W, L, E] in rising order, and their tokens [W, L]."""
    tokens_WL = np.maximum(1, load_WLE.sum(axis=2)).astype(np.float64)
    return np.sort(load_WLE / tokens_WL[..., None], axis=2), tokens_WL


def _distance(
    share_WLE: FloatArray, tokens_WL: FloatArray, other_WLE: FloatArray, other_tokens_WL: FloatArray
) -> float:
    """Return the median over layers of the distance to the nearest layer of the other; per pair, the median over
    windows.
    """
    nearest_L = []
    for layer in range(share_WLE.shape[1]):
        gap_WL = 0.5 * np.abs(share_WLE[:, layer, None] - other_WLE).sum(axis=2)
        tokens = np.minimum(tokens_WL[:, layer, None], other_tokens_WL)
        deviation_WLE = np.sqrt(other_WLE * (1 - other_WLE) / tokens[..., None])
        noise_WL = 0.5 * np.sqrt(2 / np.pi) * deviation_WLE.sum(axis=2)
        ratio_WL = gap_WL / np.maximum(noise_WL, np.finfo(np.float64).tiny)
        nearest_L.append(np.median(ratio_WL, axis=0).min())
    return float(np.median(nearest_L))

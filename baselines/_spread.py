"""Calibrated quantiles of window-mean shares around a forecast of them, for any forecaster that keeps a `Memory`.

Split conformal prediction on scaled residuals: on whole runs, (true - forecast) / scale is collected at origins spread
over each run, and its quantiles are kept per level, horizon and state; a forecast's quantiles are the forecast plus
these times the scale. Every run counts the same, since the layers, experts and origins of one are not independent.

The scale of an expert is what can be seen at the origin: how far its means over 16 to 1,024 steps lie from the
forecast, and the batch noise that its layer shows (`_measures`), shared out as the noise of counts is (with the square
root of the share) and divided by the square root of the horizon.

The state is that of a layer at the origin, from the newest 256 rows: "moving" where shares move more than `STILL` of
the tokens, at scales of 2 and 10 steps or between two windows of 128, noise taken off as the benchmark's rule of states
does it. Unlike that rule it has no memory, so it needs nothing beyond what is remembered anyway.

Between two horizons of `HORIZONS` and two levels of `LEVELS` the factors are interpolated (in the logarithm of the
horizon), beyond the outer ones they are constant.

Axis letters: S rows, O origins, L MoE layers, E experts, K horizons, Q levels, W windows, C states, M time scales.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moeload_bench.errors import TargetError
from moeload_bench.forecaster import StepBlock, TraceInfo

from ._history import SINGLE
from ._measures import WINDOWS, Measures, Memory, context_names
from ._series import FloatArray, ShareStream, row_count

LEVELS = (0.01, 0.025, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.975, 0.99)
HORIZONS = (1, 10, 100, 1000, 2000)
SPREAD_WINDOWS = (16, 64, 256, 1024)
LEAST_SHARE = 0.01
"""Of 1/E: an expert below it has the noise of one that has it."""
FIRST = 64
"""Rows seen before the first origin of a calibration: with fewer, the windows that show the spread are all the same."""
MAX_BYTES = 1 << 16
STILL = 0.04
"""The share of a layer's tokens that may move before it counts as moving: `low` of the rule of states."""
SCALES = (2, 10)
MARGIN = 1.5
NOISE = context_names().index("noise")

BoolArray = NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Spread:
    """``factor_CKQ``: scaled residuals of still (0) and moving (1) layers, rising along the levels."""

    factor_CKQ: NDArray[np.float32]

    def quantiles(
        self, levels: Sequence[float], horizons: Sequence[int], mean_KLE: FloatArray, scale_KLE: FloatArray,
        moving_L: BoolArray,
    ) -> FloatArray:  # fmt: skip
        """[Q, K, L, E] between 0 and 1, rising along the levels."""
        place_K = np.interp(np.log(horizons), np.log(HORIZONS), np.arange(len(HORIZONS)))
        low = np.minimum(place_K.astype(np.int64), len(HORIZONS) - 2)
        part_K1 = (place_K - low)[:, None]
        factor_CKQ = (1 - part_K1) * self.factor_CKQ[:, low] + part_K1 * self.factor_CKQ[:, low + 1]
        asked_CKQ = np.stack([[np.interp(levels, LEVELS, row) for row in state] for state in factor_CKQ])
        factor_QKL1 = np.moveaxis(asked_CKQ[moving_L.astype(np.int64)], 0, -1).swapaxes(0, 1)[..., None]
        quantile_QKLE = np.clip(mean_KLE + factor_QKL1 * scale_KLE, 0.0, 1.0)
        return np.asarray(np.maximum.accumulate(quantile_QKLE, axis=0))  # rounding may have crossed two of them

    def to_bytes(self) -> bytes:
        """Return an npz archive, without pickle."""
        file = io.BytesIO()
        np.savez(file, factor_CKQ=self.factor_CKQ)
        return file.getvalue()

    @classmethod
    def from_bytes(cls, data: bytes) -> Spread:
        """From what `to_bytes` gave; raises `TargetError` for anything else."""
        try:
            with np.load(io.BytesIO(data[:MAX_BYTES]), allow_pickle=False) as archive:
                return cls.checked(archive["factor_CKQ"], "what was fitted")
        except TargetError:
            raise
        except Exception as error:  # numpy has no one error for a broken archive
            raise TargetError(f"quantiles: what was fitted is no archive of factors: {type(error).__name__}") from None

    @classmethod
    def checked(cls, factor_CKQ: NDArray[Any], origin: str) -> Spread:
        """Raise `TargetError` unless these are finite float32 factors that rise along the levels."""
        shape = (2, len(HORIZONS), len(LEVELS))
        fits = factor_CKQ.shape == shape and factor_CKQ.dtype == np.float32 and np.isfinite(factor_CKQ).all()
        if not fits or (np.diff(factor_CKQ, axis=2) < 0).any():
            raise TargetError(
                f"quantiles: factor_CKQ of {origin} is {factor_CKQ.dtype} {factor_CKQ.shape}, expected finite float32 "
                f"{shape}, rising along the levels"
            )
        return cls(factor_CKQ)


def scale_of(measured: Measures, mean_KLE: FloatArray, horizons: Sequence[int]) -> FloatArray:
    """[K, L, E], above 0: how far off a forecast of the mean share over each horizon may be, as seen at the origin."""
    E = mean_KLE.shape[-1]
    noise_L = np.exp(measured.context_LC[:, NOISE])
    near_WLE = measured.window_WLE[[WINDOWS.index(w) for w in SPREAD_WINDOWS]]
    centre_LE = near_WLE.mean(axis=0)
    apart_KLE = near_WLE.var(axis=0) + (mean_KLE - centre_LE) ** 2  # mean over windows of (window - forecast)^2
    share_KLE = np.sqrt(np.maximum(mean_KLE * E, LEAST_SHARE))
    noise_KLE = (2.0 / E) * noise_L[:, None] * share_KLE / np.sqrt(np.array(horizons))[:, None, None]
    return np.asarray(np.sqrt(apart_KLE + noise_KLE**2))


def moving(memory: Memory) -> BoolArray:
    """[L]: whether a layer's shares move; true while fewer than 256 rows have been seen, as nothing is known then."""
    if memory.share.reach < 2 * SINGLE:
        return np.ones(memory.info.num_layers, dtype=np.bool_)
    rows_SLE = memory.share.newest(SINGLE)
    size = 10 * (len(rows_SLE) // 10)
    square_ML = np.stack([_mean_square(rows_SLE[-size:], m) for m in SCALES])
    scale_M1 = np.array(SCALES, dtype=np.float64)[:, None]
    noise_L = (scale_M1 * square_ML).min(axis=0)
    held, sum_NLE = memory.share.sums([SINGLE, 2 * SINGLE])
    now, before = sum_NLE[0] / held[0], (sum_NLE[1] - sum_NLE[0]) / (held[1] - held[0])
    far_L = (0.5 * np.abs(now - before).sum(axis=1)) ** 2 - MARGIN * noise_L / SINGLE
    if memory.info.stride == 1:
        short_L = (square_ML - MARGIN * noise_L / scale_M1).max(axis=0)
        far_L = np.maximum(far_L, 0.25 * short_L)
    return np.asarray(far_L > STILL**2)


def _mean_square(rows_SLE: FloatArray, m: int) -> FloatArray:
    """[L]: the mean square of the total variation between neighbouring means of m rows."""
    total = rows_SLE[::m].copy()
    for row in range(1, m):
        total += rows_SLE[row::m]
    return np.asarray(((0.5 / m * np.abs(np.diff(total, axis=0)).sum(axis=2)) ** 2).mean(axis=0))


class WindowTruth:
    """The true mean shares of a whole run, over windows from any row on."""

    def __init__(self, info: TraceInfo, block: StepBlock) -> None:
        self._stride = info.stride
        share_SLE = np.concatenate(list(ShareStream(info).chunks(block.load_SLE)))
        self._sum_SLE = np.concatenate([np.zeros((1, *share_SLE.shape[1:])), np.cumsum(share_SLE, axis=0)])

    def means(self, row: int, horizons: Sequence[int]) -> FloatArray:
        """[K, L, E]; NaN where the run ends before."""
        out = np.full((len(horizons), *self._sum_SLE.shape[1:]), np.nan)
        for k, horizon in enumerate(horizons):
            rows = row_count(horizon, self._stride)
            if row + rows < len(self._sum_SLE):
                out[k] = (self._sum_SLE[row + rows] - self._sum_SLE[row]) / rows
        return out


class Residuals:
    """Scaled residuals of several runs, and the factors that they give."""

    def __init__(self) -> None:
        self._residuals: list[list[list[tuple[int, FloatArray]]]] = [[[] for _ in HORIZONS] for _ in range(2)]

    def add(
        self, run: int, mean_KLE: FloatArray, truth_KLE: FloatArray, scale_KLE: FloatArray, moving_L: BoolArray
    ) -> None:
        """Of one origin, all at `HORIZONS`; a horizon whose truth holds a NaN (the run ends before) is left out."""
        for k, truth_LE in enumerate(truth_KLE):
            if np.isnan(truth_LE).any():
                continue
            scaled_LE = (truth_LE - mean_KLE[k]) / scale_KLE[k]
            for state in (0, 1):
                values = scaled_LE[moving_L == bool(state)].ravel()
                if len(values):
                    self._residuals[state][k].append((run, values))

    def spread(self) -> Spread | None:
        """Return the factors, None where nothing was seen at all.

        A state and horizon that was never seen takes those of a neighbouring horizon, else of the other state.
        """
        still, moves = (_filled([_weighted_quantiles(residuals) for residuals in state]) for state in self._residuals)
        if still is None and moves is None:
            return None
        both = [moves if still is None else still, still if moves is None else moves]
        return Spread(np.array(both, dtype=np.float32))


def _filled(rows: Sequence[FloatArray | None]) -> list[FloatArray] | None:
    """Fill each missing row with the one before it, or the first; return None where there is none."""
    given = [k for k, row in enumerate(rows) if row is not None]
    if not given:
        return None
    nearest_K = [max((n for n in given if n <= k), default=given[0]) for k in range(len(rows))]
    return [row for row in (rows[n] for n in nearest_K) if row is not None]


def _weighted_quantiles(residuals: Sequence[tuple[int, FloatArray]]) -> FloatArray | None:
    """[Q]: quantiles at `LEVELS`, every run with the same weight; None without any residual."""
    if not residuals:
        return None
    runs = [run for run, _ in residuals]
    size = {run: sum(len(values) for r, values in residuals if r == run) for run in set(runs)}
    value = np.concatenate([values for _, values in residuals])
    weight = np.concatenate([np.full(len(values), 1.0 / size[run]) for run, values in residuals])
    order = np.argsort(value, kind="stable")
    value, weight = value[order], weight[order]
    level_N = (np.cumsum(weight) - 0.5 * weight) / weight.sum()
    return np.asarray(np.interp(LEVELS, level_N, value))

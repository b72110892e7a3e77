"""What every adapter shares: one series per layer and expert, forecast as means of blocks that fit the horizon.

Libraries of time series forecast a few dozen steps of many series. Horizons of training are 1 to some thousand steps,
and what counts is the mean over them. So each horizon is forecast on block means: the longest blocks of `BLOCKS` steps
that fit into it, of which at least `LEAST_BLOCKS` have been seen, as many ahead as fill the horizon. The mean over the
horizon is the mean of those; its quantiles are the means of theirs, as if the blocks rose and fell together, which is
cautious.

What a library gives is cut at 0 and divided by its sum, layer by layer: shares sum to 1 whatever it says. The path
between two horizons is what makes both means right, where that is a share; a horizon's mean may so differ a little from
what the library said of it alone.

Axis letters: S rows, L MoE layers, E experts, N series (layers x experts), T blocks, H blocks ahead, K horizons, Q
levels.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from moeload_bench.errors import ForecastError
from moeload_bench.forecaster import Forecast, ForecastRequest, StepBlock, TraceInfo

FloatArray = NDArray[np.float64]

BLOCKS = (1, 10, 100, 1000)
"""Rows of a block; the first is a row, the others are made from sums of ten."""
LEAST_BLOCKS = 16
MOST_AHEAD = 48
"""Values ahead that a library is asked for; where a horizon needs more, the last of them goes on."""
ROWS, TENS = 512, 2048
"""Newest rows, and sums of ten rows, that are remembered."""
LEAST_ROWS = 8


class BlockMemory:
    """The newest shares, one by one and as sums of ten rows; bounded whatever the length of the run."""

    def __init__(self, info: TraceInfo) -> None:
        shape = (info.num_layers, info.num_experts)
        self.last_LE: FloatArray = np.full(shape, 1.0 / info.num_experts)
        self.rows = 0
        self._row_SLE: FloatArray = np.empty((0, *shape))
        self._ten_SLE: FloatArray = np.empty((0, *shape))
        self._part_SLE: FloatArray = np.empty((0, *shape))

    def observe(self, block: StepBlock) -> None:
        """Take in rows; a layer-step without load repeats the layer's last shares."""
        share_SLE = np.empty(block.load_SLE.shape)
        for s, load_LE in enumerate(block.load_SLE):
            total_L1 = load_LE.sum(axis=1, keepdims=True)
            self.last_LE = np.where(total_L1 > 0, load_LE / np.maximum(total_L1, 1), self.last_LE)
            share_SLE[s] = self.last_LE
        self.rows += len(share_SLE)
        self._row_SLE = np.concatenate([self._row_SLE, share_SLE])[-ROWS:]
        waiting = np.concatenate([self._part_SLE, share_SLE])
        rows = len(waiting) // 10 * 10
        tens = waiting[:rows].reshape(-1, 10, *share_SLE.shape[1:]).sum(axis=1)
        self._ten_SLE = np.concatenate([self._ten_SLE, tens])[-TENS:]
        self._part_SLE = waiting[rows:]

    def count(self, block: int) -> int:
        """How many whole blocks of so many rows are remembered."""
        return len(self._row_SLE) if block == 1 else len(self._ten_SLE) // (block // 10)

    def means(self, block: int) -> FloatArray:
        """[N, T] means of neighbouring blocks, oldest first; those above a row end at a multiple of ten rows."""
        if block == 1:
            return self._row_SLE.reshape(len(self._row_SLE), self.last_LE.size).T
        size = block // 10
        ten_SLE = self._ten_SLE[len(self._ten_SLE) % size :]
        return np.asarray(ten_SLE.reshape(-1, size, self.last_LE.size).sum(axis=1).T / block)


class BlockAdapter(ABC):
    """A forecaster made of something that forecasts series; a subclass says what, in `predict`.

    With fewer than `LEAST_ROWS` rows the forecast is their mean, before the first 1/E, both without quantiles.
    """

    def __init__(self, info: TraceInfo, seed: int) -> None:
        self.info, self.seed = info, seed
        self._memory = BlockMemory(info)
        self.counts = {"forecasts": 0, "early": 0}

    @abstractmethod
    def predict(
        self, context_NT: FloatArray, ahead: int, levels: Sequence[float]
    ) -> tuple[FloatArray, FloatArray | None]:
        """Points [N, H] for the ``ahead`` = H next values of every series, and quantiles [Q, N, H] or None.

        Values are shares times the number of experts: around 1.
        """

    def observe(self, block: StepBlock) -> None:
        """Remember the newest shares."""
        self._memory.observe(block)

    def forecast(self, request: ForecastRequest) -> Forecast:
        """Return a mean per horizon, joined to a path with an edge at every horizon."""
        self.counts["forecasts"] += 1
        if self._memory.rows < LEAST_ROWS:
            self.counts["early"] += 1
            seen = self._memory.means(1)
            share_LE = seen.mean(axis=1).reshape(self._memory.last_LE.shape) if seen.size else self._memory.last_LE
            return Forecast.constant(share_LE, request.horizon)
        mean_KLE, quantile_QKLE = self._horizons(request)
        return Forecast(
            path_through(mean_KLE, request.horizons), np.array(request.horizons, dtype=np.int64), quantile_QKLE
        )

    def _horizons(self, request: ForecastRequest) -> tuple[FloatArray, FloatArray | None]:
        """[K, L, E] mean shares over every horizon, and their quantiles [Q, K, L, E]; one prediction per block size."""
        rows_K = [max(1, -(-h // self.info.stride)) for h in request.horizons]
        block_K = [self._block(rows) for rows in rows_K]
        ahead_K = [max(1, round(rows / block)) for rows, block in zip(rows_K, block_K, strict=True)]
        E, shape = self.info.num_experts, self._memory.last_LE.shape
        predictions = {}
        for block in set(block_K):
            ahead = min(MOST_AHEAD, max(a for a, b in zip(ahead_K, block_K, strict=True) if b == block))
            point_NH, quantile_QNH = self.predict(E * self._memory.means(block), ahead, request.quantiles)
            if point_NH.shape != (E * shape[0], ahead) or not np.isfinite(point_NH).all():
                raise ForecastError(f"the library gave {point_NH.shape}, expected finite {(E * shape[0], ahead)}")
            predictions[block] = point_NH, quantile_QNH
        means, quantiles = [], []
        for block, ahead in zip(block_K, ahead_K, strict=True):
            point_NH, quantile_QNH = predictions[block]
            means.append(simplex(_mean_of(point_NH, ahead).reshape(shape), self._memory.last_LE))
            if quantile_QNH is not None:
                quantiles.append(_mean_of(quantile_QNH, ahead).reshape(-1, *shape) / E)
        if not quantiles or not request.quantiles:
            return np.stack(means), None
        quantile_QKLE = np.clip(np.nan_to_num(np.stack(quantiles, axis=1)), 0.0, 1.0)
        return np.stack(means), np.maximum.accumulate(quantile_QKLE, axis=0)

    def _block(self, rows: int) -> int:
        """Return the longest block that fits into so many rows and has been seen often enough."""
        fits = [b for b in BLOCKS if b <= rows and (b == 1 or self._memory.count(b) >= LEAST_BLOCKS)]
        return fits[-1]


def _mean_of(value_NH: FloatArray, ahead: int) -> FloatArray:
    """Return the mean of [..., H] over the first ``ahead`` values; the last one goes on where there are fewer."""
    beyond = max(0, ahead - value_NH.shape[-1])
    return np.asarray((value_NH[..., :ahead].sum(axis=-1) + beyond * value_NH[..., -1]) / ahead)


def simplex(share_LE: FloatArray, fallback_LE: FloatArray) -> FloatArray:
    """Cut at 0 and divided by the sum over the experts; a layer that leaves nothing becomes the fallback."""
    cut_LE = np.maximum(share_LE, 0.0)
    total_L1 = cut_LE.sum(axis=1, keepdims=True)
    return np.where(total_L1 > 1e-12, cut_LE / np.maximum(total_L1, 1e-12), fallback_LE)


def path_through(mean_KLE: FloatArray, horizons: Sequence[int]) -> FloatArray:
    """[K, L, E]: the shares between the horizons that give these means over them, as far as they are shares."""
    out, total_LE, before = [], np.zeros_like(mean_KLE[0]), 0
    for mean_LE, horizon in zip(mean_KLE, horizons, strict=True):
        part_LE = simplex((horizon * mean_LE - total_LE) / (horizon - before), mean_LE)
        total_LE = total_LE + (horizon - before) * part_LE
        before = horizon
        out.append(part_LE)
    return np.stack(out)

"""What several baselines share: share series without holes, block edges, rows that sum to 1.

Axis letters: S steps (rows), L MoE layers, E experts, H rows of the horizon, B blocks.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from moeload_bench.forecaster import Forecast, ForecastRequest, TraceInfo

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

EXACT_ROWS = 32
CHUNK_VALUES = 1 << 18
BLOCKS_PER_E_FOLD = 16


def uniform(info: TraceInfo) -> FloatArray:
    """[L, E] filled with 1/E."""
    return np.full((info.num_layers, info.num_experts), 1.0 / info.num_experts)


class ShareStream:
    """Turns observed loads into shares; a layer-step without any load repeats the layer's last valid shares.

    Before a layer's first valid step its shares are 1/E. ``last_LE`` is the newest row, ``rows`` counts rows seen.
    """

    def __init__(self, info: TraceInfo) -> None:
        self.last_LE = uniform(info)
        self.rows = 0

    def chunks(self, load_SLE: IntArray) -> Iterator[FloatArray]:
        """[S, L, E] counts as [s, L, E] shares, each row summing to 1; chunks bound the memory that a block needs."""
        rows = max(1, CHUNK_VALUES // max(1, self.last_LE.size))
        for start in range(0, len(load_SLE), rows):
            yield self._push(load_SLE[start : start + rows])

    def _push(self, load_SLE: IntArray) -> FloatArray:
        total_SL1 = load_SLE.sum(axis=2, keepdims=True, dtype=np.float64)
        empty_SL = total_SL1[:, :, 0] <= 0
        share_SLE = load_SLE / np.where(empty_SL[:, :, None], 1.0, total_SL1)
        for row, layer in np.argwhere(empty_SL):
            share_SLE[row, layer] = share_SLE[row - 1, layer] if row else self.last_LE[layer]
        self.last_LE = share_SLE[-1].copy()
        self.rows += len(share_SLE)
        return share_SLE


class Tail:
    """The newest ``size`` rows of a stream; adding a row costs the same whatever the size (amortised)."""

    def __init__(self, size: int, info: TraceInfo) -> None:
        self._size = size
        self._shape = (info.num_layers, info.num_experts)
        self._buffer = np.empty((0, *self._shape))
        self._stop = 0

    def push(self, row_SLE: FloatArray) -> None:
        """Append rows, dropping those that no longer fit."""
        new = row_SLE[-self._size :]
        if self._stop + len(new) > len(self._buffer):
            keep = self.rows_SLE[max(0, len(self.rows_SLE) + len(new) - self._size) :]
            grown = min(2 * self._size, 2 * (len(keep) + len(new)))
            buffer = np.empty((max(grown, len(keep) + len(new)), *self._shape))
            buffer[: len(keep)] = keep
            self._buffer, self._stop = buffer, len(keep)
        self._buffer[self._stop : self._stop + len(new)] = new
        self._stop += len(new)

    @property
    def rows_SLE(self) -> FloatArray:
        """Up to ``size`` rows, oldest first (a view)."""
        return self._buffer[max(0, self._stop - self._size) : self._stop]


def row_count(steps: int, stride: int) -> int:
    """Rows of a trace that lie in ``steps`` training steps, at least 1."""
    return max(1, -(-steps // stride))


def row_edges(request: ForecastRequest, stride: int) -> tuple[int, ...]:
    """Return ends of the blocks of a slowly changing path, in rows.

    Every one of the first 32 rows is a block; after that a block spans a sixteenth of its distance from the origin
    (98 blocks for 2,000 steps). Every suite horizon is an edge, so that the mean over each of them is exact.
    """
    stop = row_count(request.horizon, stride)
    edges = {row_count(h, stride) for h in request.horizons if h <= request.horizon} | {stop}
    edge = 0
    while edge < stop:
        edge += 1 if edge < EXACT_ROWS else max(1, edge // BLOCKS_PER_E_FOLD)
        edges.add(min(edge, stop))
    return tuple(sorted(edges))


def blocks(share_BLE: FloatArray, edges: tuple[int, ...], request: ForecastRequest, stride: int) -> Forecast:
    """Return a forecast whose blocks end at the given rows; edges in training steps, the last one at the horizon."""
    edges_B = np.minimum(np.array(edges, dtype=np.int64) * stride, request.horizon)
    edges_B[-1] = request.horizon
    return Forecast(share_BLE, edges_B)


def block_means(path_H: FloatArray, edges: tuple[int, ...]) -> FloatArray:
    """[H, ...] to [B, ...]: the mean of the path over each block, along the first axis."""
    stop_B = np.array(edges)
    start_B = np.concatenate([[0], stop_B[:-1]])
    length_B = (stop_B - start_B).reshape(-1, *[1] * (path_H.ndim - 1))
    mean_B: FloatArray = np.add.reduceat(path_H, start_B, axis=0) / length_B
    return mean_B


def to_simplex(share: FloatArray, fallback: FloatArray) -> FloatArray:
    """Clip [..., E] at 0 and divide by the sum over E; rows that leave nothing to divide become ``fallback``.

    Unlike the Euclidean projection this keeps an expert at 0 at 0 and leaves ratios between experts as they are.
    """
    clipped = np.maximum(share, 0.0)
    total = clipped.sum(axis=-1, keepdims=True)
    usable = np.isfinite(total) & (total > 1e-12)
    return np.where(usable, clipped / np.where(usable, total, 1.0), fallback)

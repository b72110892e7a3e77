"""`sw_avg`: the paper's sliding-window average, rolled forward recursively.

What the paper says (arXiv 2404.16914): the next value is the mean of a sliding window; the window then moves on by
one, takes the forecast in as if it had been observed, and so on for k steps.

What it leaves open: the length of the window, and what happens before the window is full.

What was chosen: ``window`` = 100 training steps, the paper's own window for its variance curves (on a trace sampled
every ``stride`` steps it holds window / stride rows); before it is full, the mean of what there is; before any
observation 1/E.

The recursion is not a constant forecast. It starts at the plain mean of the window x_1 .. x_w and tends to the
weighted mean sum_i i x_i / (w (w + 1) / 2): with Q_n = sum_{k=1..w} (w + 1 - k) y_{n-k} and y_n the mean of
y_{n-w} .. y_{n-1}, Q_{n+1} = Q_n, and of all constants only that weighted mean has the same Q. Every value of the path
is a fixed combination of the window's rows, so the path is one matrix product. It is given exactly for 32 rows and as
exact block means after that (a block is a sixteenth of its distance from the origin long, with an edge at every suite
horizon): within a block the path moves by a small fraction of one step's noise.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from moeload_bench.errors import TargetError
from moeload_bench.forecaster import Forecast, ForecastRequest, StepBlock, TraceInfo

from ._series import FloatArray, ShareStream, Tail, block_means, blocks, row_count, row_edges

FACTS = {
    "sw_avg": {"place": 0, "own_run": 3, "plan": 2},
    "sw_avg.w10": {"place": 10, "target": "sw_avg@window=10"},
    "sw_avg.w500": {"place": 11, "target": "sw_avg@window=500"},
    "sw_avg.w1000": {"place": 12, "target": "sw_avg@window=1000"},
}


class SlidingWindowAverage:
    """The recursive mean of the last ``window`` training steps, per layer and expert."""

    def __init__(self, info: TraceInfo, seed: int, window: int = 100) -> None:
        if isinstance(window, bool) or not isinstance(window, int) or window < 1:
            raise TargetError(f"sw_avg: window is {window!r}, expected a whole number of training steps from 1")
        self._info = info
        self._stream = ShareStream(info)
        self._tail = Tail(row_count(window, info.stride), info)

    def observe(self, block: StepBlock) -> None:
        """Keep the newest rows of the window; the cost per step does not depend on its length."""
        for share_SLE in self._stream.chunks(block.load_SLE):
            self._tail.push(share_SLE)

    def forecast(self, request: ForecastRequest) -> Forecast:
        """Return the recursive average as block means."""
        window_WLE = self._tail.rows_SLE
        if not len(window_WLE):
            return Forecast.constant(self._stream.last_LE, request.horizon)
        edges = row_edges(request, self._info.stride)
        weight_BW = block_weights(len(window_WLE), edges)
        flat_BN = weight_BW @ window_WLE.reshape(len(window_WLE), -1)
        return blocks(flat_BN.reshape(len(edges), *window_WLE.shape[1:]), edges, request, self._info.stride)


@lru_cache(maxsize=64)
def block_weights(window: int, edges: tuple[int, ...]) -> FloatArray:
    """[B, W]: the weight of each row of the window, oldest first, in the mean of the path over each block."""
    rolled = np.zeros((window + edges[-1], window))
    rolled[:window] = np.eye(window)
    total = np.ones(window)
    for row in range(window, len(rolled)):
        rolled[row] = total / window
        total = total + rolled[row] - rolled[row - window]
    return block_means(rolled[window:], edges)

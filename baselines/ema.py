"""`ema`: an exponential average of the shares, held over the whole horizon.

Used in the field rather than in the paper: MindSpeed keeps 0.9 of the old average per step, ``gain`` = 0.1 here. Left
open there: how the average starts. Chosen: the weights of the steps seen so far are divided by their sum (as in Adam's
bias correction), so the first step does not weigh more than its successors; before any observation 1/E. The gain is
per training step: on a trace sampled every ``stride`` steps a row counts as 1 - (1 - gain)^stride.
"""

from __future__ import annotations

import numpy as np

from moeload_bench.errors import TargetError
from moeload_bench.forecaster import Forecast, ForecastRequest, StepBlock, TraceInfo

from ._series import ShareStream

FACTS = {"ema": {"place": 3, "own_run": 4, "plan": 1}}


class ExponentialAverage:
    """sum_i gain (1 - gain)^i share_{t-i}, divided by the sum of its weights."""

    def __init__(self, info: TraceInfo, seed: int, gain: float = 0.1) -> None:
        if isinstance(gain, bool) or not isinstance(gain, int | float) or not 0 < gain <= 1:
            raise TargetError(f"ema: gain is {gain!r}, expected a number above 0 and at most 1")
        self._stream = ShareStream(info)
        self._keep = (1.0 - gain) ** info.stride
        self._sum_LE = np.zeros((info.num_layers, info.num_experts))
        self._weight = 0.0

    def observe(self, block: StepBlock) -> None:
        """Fold rows in, a chunk at a time: one product with the weights keep^(S-1) .. keep^0."""
        for share_SLE in self._stream.chunks(block.load_SLE):
            decay_S = self._keep ** np.arange(len(share_SLE) - 1, -1, -1, dtype=np.float64)
            left = self._keep ** len(share_SLE)
            self._sum_LE = left * self._sum_LE + np.tensordot(decay_S, share_SLE, axes=1)
            self._weight = left * self._weight + float(decay_S.sum())

    def forecast(self, request: ForecastRequest) -> Forecast:
        """Return the average over the whole horizon."""
        share_LE = self._sum_LE / self._weight if self._weight > 0 else self._stream.last_LE
        return Forecast.constant(share_LE, request.horizon)

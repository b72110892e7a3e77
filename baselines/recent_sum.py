"""`recent_sum`: the sum of the newest steps' loads, held over the whole horizon.

Used in the field: LAER-MoE (arXiv 2602.11686) plans from the sum of the last five iterations. Unlike `sw_avg` nothing
is rolled forward. Left open there: what happens before five iterations are seen, and with a layer without load. Chosen:
the sum of what there is, before any observation 1/E; a step without load repeats the layer's last valid shares; every
step counts alike (shares are summed, which is the sum of loads where each step routes as many tokens). ``steps`` counts
training steps: on a trace sampled every ``stride`` steps it holds steps / stride rows, at least one.
"""

from __future__ import annotations

from moeload_bench.errors import TargetError
from moeload_bench.forecaster import Forecast, ForecastRequest, StepBlock, TraceInfo

from ._series import ShareStream, Tail, row_count

FACTS = {"recent_sum": {"place": 13}}


class RecentSum:
    """The shares of the last ``steps`` training steps taken together."""

    def __init__(self, info: TraceInfo, seed: int, steps: int = 5) -> None:
        if isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
            raise TargetError(f"recent_sum: steps is {steps!r}, expected a whole number of training steps from 1")
        self._stream = ShareStream(info)
        self._tail = Tail(row_count(steps, info.stride), info)

    def observe(self, block: StepBlock) -> None:
        """Keep the newest rows."""
        for share_SLE in self._stream.chunks(block.load_SLE):
            self._tail.push(share_SLE)

    def forecast(self, request: ForecastRequest) -> Forecast:
        """Their mean over the whole horizon."""
        rows_SLE = self._tail.rows_SLE
        share_LE = rows_SLE.mean(axis=0) if len(rows_SLE) else self._stream.last_LE
        return Forecast.constant(share_LE, request.horizon)

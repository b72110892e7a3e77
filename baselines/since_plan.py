"""`since_plan`: the running mean since the last plan, held over the whole horizon.

Used in the field: SmartMoE (ATC'23) places experts by the mean load since it last moved them; with ``whole_blocks`` the
mean of the last whole block, as the EPLB task of ADRS scores plans (the last 100 steps decide the next 100).

A forecaster is not told when plans are made. Chosen: every ``every`` training steps, counted from the first step seen
(100 by default; SmartMoE decides by its own cost model). In the step in which a plan falls, and with ``whole_blocks``
always, the mean is that of the block before; before the first plan, of what there is; before any observation 1/E. On a
trace sampled every ``stride`` steps a block holds every / stride rows, at least one. A step without load repeats the
layer's last valid shares.
"""

from __future__ import annotations

import numpy as np

from moeload_bench.errors import TargetError
from moeload_bench.forecaster import Forecast, ForecastRequest, StepBlock, TraceInfo

from ._series import FloatArray, ShareStream, row_count

FACTS = {
    "since_plan": {"place": 14},
    "since_plan.blocks": {"place": 15, "target": "since_plan@whole_blocks=true"},
}


class SincePlan:
    """Mean shares since the last of the plans that are ``every`` training steps apart."""

    def __init__(self, info: TraceInfo, seed: int, every: int = 100, whole_blocks: bool = False) -> None:
        if isinstance(every, bool) or not isinstance(every, int) or every < 1:
            raise TargetError(f"since_plan: every is {every!r}, expected a whole number of training steps from 1")
        if not isinstance(whole_blocks, bool):
            raise TargetError(f"since_plan: whole_blocks is {whole_blocks!r}, expected true or false")
        self._stream = ShareStream(info)
        self._every, self._whole_blocks = row_count(every, info.stride), whole_blocks
        self._sum_LE, self._rows = np.zeros_like(self._stream.last_LE), 0
        self._last_LE: FloatArray | None = None

    def observe(self, block: StepBlock) -> None:
        """Add rows to the running mean; it starts again at every plan."""
        for share_SLE in self._stream.chunks(block.load_SLE):
            start = 0
            while start < len(share_SLE):
                part_SLE = share_SLE[start : start + self._every - self._rows]
                self._sum_LE += part_SLE.sum(axis=0)
                self._rows += len(part_SLE)
                start += len(part_SLE)
                if self._rows == self._every:
                    self._last_LE = self._sum_LE / self._rows
                    self._sum_LE, self._rows = np.zeros_like(self._sum_LE), 0

    def forecast(self, request: ForecastRequest) -> Forecast:
        """Return the mean over the whole horizon."""
        if self._last_LE is not None and (self._whole_blocks or not self._rows):
            return Forecast.constant(self._last_LE, request.horizon)
        share_LE = self._sum_LE / self._rows if self._rows else self._stream.last_LE
        return Forecast.constant(share_LE, request.horizon)

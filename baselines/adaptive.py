"""`adaptive`: a mixture of windows, each weighted by how well it has forecast this very run; learns from no other run.

For people who have one run and no torch. Of the bank of `gated` (`_measures`) it takes window means of 1 to 1,024 steps
and 1/E. At an origin each of them is tried on targets that are complete by then: over 1 step (the last eight), 16 and
128 steps (the last three, half overlapping) and 1,024 steps (two). A layer's weights are the errors to the power of
-``sharpness`` (8 by default, chosen on the `train` runs of suite v1), an error being the geometric mean of the layer's
own and of the mean over layers, since a layer alone has few targets. Where fewer rows have been seen, the target is
half of what was seen.

The mixture for a horizon stands at half of it, at 1, 8, 64 and 512 steps after the origin; between these the forecast
is interpolated in the logarithm of the step, and after them it is constant. Online aggregation of experts (Hedge) with
a forgetting factor would weight by errors in the same way; here the rows that are remembered anyway take the factor's
place, so that observing costs no more than remembering.

Nothing observed: 1/E. Fewer than 5 rows: their mean. Other unusual input: as `gated` says, whose memory this is.
"""

from __future__ import annotations

import numpy as np

from moeload_bench.errors import TargetError
from moeload_bench.forecaster import Forecast, ForecastRequest, StepBlock, TraceInfo

from ._measures import SHARPNESS, TESTED_AT, Memory, tested_mixtures
from ._path import block_edges, hat_weights
from ._series import uniform

FACTS = {"adaptive": {"place": 4, "step_ns": 10, "forecast_us": 3, "own_run": 7, "plan": 3}}
MIN_ROWS = 5


class Adaptive:
    """Window means, weighted by their errors on complete targets of this run."""

    def __init__(self, info: TraceInfo, seed: int, sharpness: float = SHARPNESS) -> None:
        if isinstance(sharpness, bool) or not isinstance(sharpness, int | float) or not 0 <= sharpness <= 100:
            raise TargetError(f"adaptive: sharpness is {sharpness!r}, expected a number from 0 to 100")
        self._memory = Memory(info)
        self._sharpness = float(sharpness)

    def observe(self, block: StepBlock) -> None:
        """Keep the newest rows and sums of older ones."""
        self._memory.observe(block)

    def forecast(self, request: ForecastRequest) -> Forecast:
        """Return the mixtures, as exact means over blocks that double, with an edge at every horizon asked for."""
        if self._memory.rows < MIN_ROWS:
            rows_SLE = self._memory.share.newest(MIN_ROWS)
            share_LE = rows_SLE.mean(axis=0) if len(rows_SLE) else uniform(self._memory.info)
            return Forecast.constant(share_LE, request.horizon)
        at_KLE = tested_mixtures(self._memory, self._sharpness)
        edges = block_edges(request, self._memory.info.stride)
        share_BLE = np.tensordot(hat_weights(TESTED_AT, edges), at_KLE, axes=1)
        return Forecast(share_BLE, np.array(edges, dtype=np.int64))

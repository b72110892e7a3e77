"""`online.guarded`: `guarded` and `online`, each as far as it was nearer on this very run.

Every `CHECK` rows both say what the mean of the next 1, 10, 100, 1,000 and 2,000 steps will be. Once that has come,
each is compared with it: per layer, the logarithm of the error of `online` over that of `guarded`, half of it
the layer's own and half that of the mean over layers. Means d of these that forget, times how many targets n without
overlap they rest on, give `guarded` the weight 1 / (1 + exp(-`SHARPNESS` n d)): both count half before anything is
known. Between two horizons the weight is interpolated in the logarithm of the step.

Unusual input, quantiles, ``weights`` and ``counts``: as `guarded` says; quantiles lie around what both say together.

Axis letters: K horizons, M the two members, B blocks, L MoE layers, E experts.
"""

from __future__ import annotations

from collections import deque

import numpy as np

from moeload_bench.forecaster import Forecast, ForecastRequest, StepBlock, TraceInfo

from ._guard import HALF_LIFE, MOST
from ._measures import Measures, measure
from ._pooled import log_errors
from ._series import FloatArray, IntArray, row_count
from .guarded import Guarded
from .online import HORIZONS, Constants, forecast_from

FACTS = {"online.guarded": {"place": 22, "target": "online_guarded", "step_ns": 100, "forecast_us": 150, "own_run": 10}}
CHECK, CHECK_CELLS = 128, 4096
"""Rows between two questions of a model with at most so many experts over all layers; of larger ones in proportion."""
SHARPNESS = 4.0


class OnlineGuarded(Guarded):
    """Two forecasters from one memory, weighted by their errors on this run."""

    def __init__(
        self, info: TraceInfo, seed: int, fitted: bytes | None = None, weights: str = "fitted", guard: bool = True
    ) -> None:
        super().__init__(info, seed, fitted, weights, guard)
        self._every = CHECK * -(-info.num_layers * info.num_experts // CHECK_CELLS)
        self._rows_K = sorted({row_count(h, info.stride) for h in HORIZONS})
        self._lag_K = [-(-rows // self._every) for rows in self._rows_K]
        self._asked: deque[FloatArray] = deque(maxlen=max(self._lag_K))
        self._excess_KL = np.zeros((len(self._rows_K), info.num_layers))
        self._targets_K = np.zeros(len(self._rows_K))

    def observe(self, block: StepBlock) -> None:
        """Keep rows as `guarded` does; every `CHECK` rows compare and ask."""
        start = 0
        while start < len(block):
            stop = min(len(block), start + self._every - self._memory.rows % self._every)
            super().observe(block.rows(start, stop))
            start = stop
            if self._memory.rows % self._every == 0:
                self._check()

    def _path(self, measured: Measures, request: ForecastRequest) -> Forecast:
        """Both paths, mixed, with the edges of both."""
        guarded, online = self._members(measured, request)
        edges = np.union1d(guarded.edges_B, online.edges_B)
        share_MBLE = [member.share_BLE[np.searchsorted(member.edges_B, edges)] for member in (guarded, online)]
        weight_BL1 = self._weight_of_guarded(edges)[..., None]
        return Forecast(weight_BL1 * share_MBLE[0] + (1 - weight_BL1) * share_MBLE[1], edges)

    def _members(self, measured: Measures, request: ForecastRequest) -> tuple[Forecast, Forecast]:
        """Return the path of `guarded` and that of `online`."""
        return super()._path(measured, request), forecast_from(self._memory, Constants(), request.horizon)

    def _weight_of_guarded(self, step_B: IntArray) -> FloatArray:
        """[B, L]: of blocks that end so many steps ahead."""
        alone_K = self._targets_K / np.maximum(np.array(self._rows_K) / self._every, 1.0)
        excess_KL = self._excess_KL / np.maximum(self._targets_K, 1.0)[:, None]
        weight_KL = 1 / (1 + np.exp(-SHARPNESS * alone_K[:, None] * excess_KL))
        at_K = np.log(np.array(self._rows_K) * self._memory.info.stride)
        return np.stack([np.interp(np.log(step_B), at_K, weight_L) for weight_L in weight_KL.T], axis=1)

    def _check(self) -> None:
        """Compare the forecasts of former checks with the rows since, then forecast again."""
        for k, lag in enumerate(self._lag_K):
            if len(self._asked) >= lag:
                self._compare(k, self._asked[-lag][k])
        steps = [rows * self._memory.info.stride for rows in self._rows_K]
        request = ForecastRequest(0, steps[-1], tuple(steps))
        members = self._members(measure(self._memory), request)
        mean_KMLE = np.stack([member.window_means(steps) for member in members], axis=1)
        self._asked.append(mean_KMLE.astype(np.float32))

    def _compare(self, k: int, mean_MLE: FloatArray) -> None:
        """Take in one target: the rows after a question that was asked ``_lag_K[k]`` checks ago."""
        far = self._lag_K[k] * self._every
        near_LE, far_LE = self._memory.share.sums([far - self._rows_K[k], far])[1]
        guarded_L, online_L = log_errors(mean_MLE[None], ((far_LE - near_LE) / self._rows_K[k])[None])
        keep = 0.5 ** (1 / max(HALF_LIFE, 2 * self._lag_K[k]))
        self._excess_KL[k] = keep * self._excess_KL[k] + np.clip(online_L - guarded_L, -MOST, MOST)
        self._targets_K[k] = keep * self._targets_K[k] + 1

"""`gated`: windows, decays and trends, weighted by a small network that looks at how the run behaves.

No published forecaster of training-time load beats a moving average over long horizons; which average is best depends
on the run, the layer, the horizon and the moment. `gated` measures these (`_measures`) and lets a network of some ten
thousand weights (`_gate`) set the weights of a bank of window means of 1 to 3,072 steps, of decays towards 1/E, of the
last moves, of 1/E, and under loss-free balancing of what the controller has been doing. The network sees no expert by
itself: any number of experts and layers, and the same forecast under another numbering.

Where the weights come from: `fit` learns them from the `train` runs of a suite with the benchmark's own loss (the
logarithm of `window_tv`, averaged over layers), beside them from two kinds of twins of each run (`_gate_fit`): sampled
every tenth step, and balanced by a simulated loss-free controller. It needs torch; forecasting needs numpy only. With
runs of fewer than `MIN_GROUPS` recipes nothing is fitted, and a forecaster that is given nothing fitted uses the
weights that ship with the package, learned from the `train` runs of suite v1: so it serves one's own run (`--trace`)
and a live one at once. ``weights="shipped"`` uses these always.

Quantiles of the window means are calibrated with the weights, by split conformal prediction per horizon and state
(`_spread`): what the network was off by on the runs that it learned from, over what can be seen at the origin.

The rules for unusual input:

- Nothing observed: 1/E. Fewer than 5 rows: their mean; both without quantiles. A window longer than what was seen is
  what was seen.
- One expert: its share is 1. A layer-step without load repeats the layer's last valid shares; a layer that never had
  load is forecast at 1/E. A dead expert is forecast at 0, except under loss-free balancing, whose controller wakes it
  up.
- Any horizon: shares are interpolated in the logarithm of the step between anchors at 1, 4, 16, 64, 250, 1,000 and
  4,000 steps, and constant from there on.
- Sampled traces: windows and anchors count training steps. `load_half`, learning rate, stage and loss are not used, so
  they may be missing. A balancing method by another name than those of the suite counts as none of them.
- 60 layers of 512 experts cost in proportion; memory is bounded by some 400 rows of shares whatever the length of the
  run.
- Weights of another version, another shape or another hash are refused by name, never used.

`counts`: ``forecasts``; of these ``early`` (fewer than 5 rows); ``shipped`` = 1 when the package's weights were used.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from moeload_bench.errors import TargetError
from moeload_bench.forecaster import FitRuns, Forecast, ForecastRequest, StepBlock, TraceInfo

from ._gate import read_gate, shipped_gate
from ._measures import ANCHORS, Measures, Memory, measure
from ._path import block_edges, hat_weights
from ._series import uniform
from ._spread import moving, scale_of

FACTS = {"gated": {"place": 5, "step_ns": 10, "forecast_us": 5}}
MIN_ROWS = 5
MIN_GROUPS = 6
SOURCES = ("fitted", "shipped")


class Gated:
    """A mixture of what was measured in the run, weighted by a network that was fitted on other runs."""

    def __init__(self, info: TraceInfo, seed: int, fitted: bytes | None = None, weights: str = "fitted") -> None:
        use_fitted = _checked(weights) == "fitted" and bool(fitted)
        self._gate = read_gate(bytes(fitted or b""), "what was fitted") if use_fitted else shipped_gate()
        self._memory = Memory(info)
        self.counts = {"forecasts": 0, "early": 0, "shipped": int(not use_fitted)}

    @classmethod
    def fit(cls, runs: FitRuns, seed: int, weights: str = "fitted") -> bytes:
        """Return the weights as an archive; empty where the shipped ones are to be used."""
        if _checked(weights) == "shipped" or len({info.group for info, _ in runs}) < MIN_GROUPS:
            return b""
        from ._gate_fit import fit_gate

        return fit_gate(runs, seed).to_bytes()

    def observe(self, block: StepBlock) -> None:
        """Keep the newest rows and sums of older ones."""
        self._memory.observe(block)

    def forecast(self, request: ForecastRequest) -> Forecast:
        """Shares at the anchors, as exact means over blocks that double, with an edge at every horizon asked for."""
        self.counts["forecasts"] += 1
        if self._memory.rows < MIN_ROWS:
            self.counts["early"] += 1
            rows_SLE = self._memory.share.newest(MIN_ROWS)
            share_LE = rows_SLE.mean(axis=0) if len(rows_SLE) else uniform(self._memory.info)
            return Forecast.constant(share_LE, request.horizon)
        measured = measure(self._memory)
        path = self._path(measured, request)
        if self._gate.spread is None or not request.quantiles:
            return path
        mean_KLE = path.window_means(request.horizons)
        scale_KLE = scale_of(measured, mean_KLE, request.horizons)
        quantile_QKLE = self._gate.spread.quantiles(
            request.quantiles, request.horizons, mean_KLE, scale_KLE, moving(self._memory)
        )
        return replace(path, quantile_QKLE=quantile_QKLE)

    def _path(self, measured: Measures, request: ForecastRequest) -> Forecast:
        """Return the shares of what was measured, without quantiles."""
        edges = block_edges(request, self._memory.info.stride)
        share_BLE = np.tensordot(hat_weights(ANCHORS, edges), self._gate.forecast(measured), axes=1)
        return Forecast(share_BLE, np.array(edges, dtype=np.int64))


def _checked(weights: str) -> str:
    if weights not in SOURCES:
        raise TargetError(f"gated: unknown weights {weights!r}; there is: {', '.join(SOURCES)}")
    return weights

"""`arima`: one ARIMA per layer and expert, as in the paper.

What the paper says (arXiv 2404.16914): ARIMA(5,1,5) for the 125M model; the orders for the 350M model come from
stationarity and seasonality tests.

What it leaves open: those other orders, the estimator, how much history is fitted, how often, and what becomes of
forecasts that are negative or do not add up.

What was chosen:

- Shares are multiplied by E (many fits on raw shares fail to converge) and each series is fitted on its own. No trend;
  with d = 0 the history's mean is taken off first.
- ``history`` = 1,000 training steps are fitted and filtered. Parameters are fitted when ``refit_every`` = 1,000 more
  steps have been seen, and before the first 1,000 at each halving of it (62, 125, 250, 500) that leaves four rows for
  each parameter. In between the same parameters are applied to the newest history.
- The estimator is maximum likelihood with the variance concentrated out, in one of two engines that agree:
  ``engine="statsmodels"``, the reference, takes at most ``maxiter`` = 50 iterations of L-BFGS, and (5,1,5) seldom
  converges in 50; such a fit is used and counted. ``engine="grid"``, the default, needs numba (the extra `fast`) and is
  hundreds of times faster: orders (0,1,1) and (1,1,1) are fitted at every origin in one streaming pass over a grid of
  theta (`_arima_stream.py`; ``refit_every`` and ``maxiter`` are not used), all others in a batch by Gauss-Newton steps
  from seven starts (`_arima_batch.py`). Without numba the reference is used, which is said once and counted.
- The forecast is the closed-form conditional mean, given exactly for 32 rows and as exact block means after that, as
  in `sw_avg`. Rows are clipped at 0 and divided by their sum.
- Fall-back, per series: the mean of the last 100 training steps, for a series that is constant (a dead expert), shorter
  than the order asks for, or whose fit or forecast fails or is not finite.

`counts` (read by the harness after a run): ``fits`` and, of these, ``not_converged``; ``forecasts`` (series times
origins) and, of these, ``fallback``; ``numba_missing`` = 1 when the engine `grid` was asked for and could not be had.
"""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from moeload_bench.errors import TargetError
from moeload_bench.forecaster import Forecast, ForecastRequest, StepBlock, TraceInfo

from . import _arima_exact as exact
from ._series import FloatArray, ShareStream, Tail, blocks, row_count, row_edges, to_simplex

FACTS = {
    "arima": {"place": 7, "step_ns": 20, "forecast_us": 1_500, "own_run": 5},
    "arima.111": {"place": 16, "target": "arima@order=[1,1,1]"},
}
if TYPE_CHECKING:
    from ._arima_stream import Stream

ENGINES = ("grid", "statsmodels")
STREAMED = ((0, 1, 1), (1, 1, 1))
FALLBACK_STEPS = 100
ROWS_PER_PARAMETER = 4


class Arima:
    """ARIMA(p, d, q) on the share series of every layer and expert."""

    def __init__(
        self,
        info: TraceInfo,
        seed: int,
        order: Sequence[int] = (5, 1, 5),
        engine: str = "grid",
        maxiter: int = 50,
        history: int = 1000,
        refit_every: int = 1000,
    ) -> None:
        self._order = _checked_order(order)
        if engine not in ENGINES:
            raise TargetError(f"arima: unknown engine {engine!r}; there is: {', '.join(ENGINES)}")
        for name, value in (("maxiter", maxiter), ("history", history), ("refit_every", refit_every)):
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise TargetError(f"arima: {name} is {value!r}, expected a whole number from 1")
        self._info, self._maxiter = info, maxiter
        self._history, self._refit = row_count(history, info.stride), row_count(refit_every, info.stride)
        self._shares = ShareStream(info)
        self._tail = Tail(self._history + self._refit, info)
        self._fits: tuple[int, exact.Fits] | None = None
        self.counts = {"fits": 0, "not_converged": 0, "forecasts": 0, "fallback": 0}
        self._engine = engine
        if engine == "grid" and importlib.util.find_spec("numba") is None:
            self._engine = "statsmodels"
            self.counts["numba_missing"] = 1
            warnings.warn("arima: engine 'grid' needs numba (extra 'fast'); using 'statsmodels'", stacklevel=2)
        self._stream: Stream | None = None
        if self._engine == "grid" and self._order in STREAMED:
            from ._arima_stream import Stream, warm_up

            warm_up()  # compiling is start-up, not observing
            self._stream = Stream(info.num_layers * info.num_experts, self._history)
        elif self._engine == "grid":
            from ._arima_batch import warm_up

            warm_up()

    def observe(self, block: StepBlock) -> None:
        """Keep the rows that fitting and filtering need."""
        for share_SLE in self._shares.chunks(block.load_SLE):
            self._tail.push(share_SLE)
            if self._stream is not None:
                self._stream.push(share_SLE.reshape(len(share_SLE), -1) * self._info.num_experts)

    def forecast(self, request: ForecastRequest) -> Forecast:
        """Block means of the conditional mean; fits first when a new fit is due (a pure function of what was seen)."""
        edges = row_edges(request, self._info.stride)
        L, E = self._info.num_layers, self._info.num_experts
        recent_SN = self._tail.rows_SLE[-self._history :].reshape(-1, L * E) * E
        fallback_N = self._fallback(recent_SN)
        mean_BN = self._means(recent_SN, edges)
        failed_N = ~np.isfinite(mean_BN).all(axis=0)
        self.counts["forecasts"] += L * E
        self.counts["fallback"] += int(failed_N.sum())
        share_BLE = np.where(failed_N, fallback_N, mean_BN).reshape(len(edges), L, E) / E
        return blocks(to_simplex(share_BLE, fallback_N.reshape(L, E) / E), edges, request, self._info.stride)

    def _means(self, recent_SN: FloatArray, edges: tuple[int, ...]) -> FloatArray:
        """[B, N] block means by the engine in use, NaN where a series has to fall back."""
        if self._stream is not None:
            mean_BN = self._stream.forecast(self._order[0] == 1, np.array(edges))
            self.counts["fits"] += int(np.isfinite(mean_BN[0]).sum())
            return mean_BN
        fits = self._current_fits()
        if fits is None:
            return np.full((len(edges), recent_SN.shape[1]), np.nan)
        if self._engine == "grid":
            from . import _arima_batch

            return _arima_batch.forecast(recent_SN, fits, self._order, edges)
        return exact.forecast(recent_SN, fits, self._order, edges)

    def _fallback(self, recent_SN: FloatArray) -> FloatArray:
        rows = row_count(FALLBACK_STEPS, self._info.stride)
        if not len(recent_SN):
            return self._shares.last_LE.reshape(-1) * self._info.num_experts
        mean_N: FloatArray = recent_SN[-rows:].mean(axis=0)
        return mean_N

    def _current_fits(self) -> exact.Fits | None:
        """Return the fits of the newest row number at which a fit was due; kept until the next one."""
        due = fit_due(self._shares.rows, self._refit, ROWS_PER_PARAMETER * (self._order[0] + self._order[2] + 1))
        if due is None:
            return None
        if self._fits is None or self._fits[0] != due:
            stop = len(self._tail.rows_SLE) - (self._shares.rows - due)
            history_SLE = self._tail.rows_SLE[max(0, stop - self._history) : stop]
            fits = self._fit(history_SLE.reshape(len(history_SLE), -1) * self._info.num_experts)
            fitted_N = np.isfinite(fits.param_NP).all(axis=1)
            self.counts["fits"] += int(fitted_N.sum())
            self.counts["not_converged"] += int((fitted_N & ~fits.converged_N).sum())
            self._fits = (due, fits)
        return self._fits[1]

    def _fit(self, history_SN: FloatArray) -> exact.Fits:
        if self._engine == "grid":
            from . import _arima_batch

            return _arima_batch.fit(history_SN, self._order, self._maxiter)
        return exact.fit(history_SN, self._order, self._maxiter)


def fit_due(rows: int, refit: int, least: int) -> int | None:
    """Return the newest row count up to ``rows`` at which a fit is due: a multiple of ``refit``, or a halving of it."""
    if rows >= refit:
        return rows // refit * refit
    count = refit
    while count > rows:
        count //= 2
    return count if count >= least else None


def _checked_order(order: Sequence[int]) -> exact.Order:
    values = list(order) if isinstance(order, list | tuple) else []
    integers = all(isinstance(v, int) and not isinstance(v, bool) and v >= 0 for v in values)
    if len(values) != 3 or not integers or values[0] + values[2] == 0 or values[1] > 2:
        raise TargetError(
            f"arima: order is {order!r}, expected whole numbers [p, d, q] with p + q of at least 1 and d of at most 2"
        )
    return (values[0], values[1], values[2])

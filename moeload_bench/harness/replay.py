"""The replay: feed what has happened, ask at each origin, never show the future.

`follow` is the one place that feeds a forecaster, whatever it is asked for: scores, plans, a run that is training. The
harness owns the data and the clock; answers come out one origin at a time, so that memory stays bounded by one window.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from moeload_bench.errors import ForecastError, IsolationError, MoeloadError
from moeload_bench.forecaster import Forecast, ForecastRequest, StepBlock, TraceInfo, trace_info
from moeload_bench.isolation.hosts import Host, Level, Limits, open_host
from moeload_bench.isolation.targets import Target
from moeload_bench.traces.trace import Trace

FEED_ROWS = 2048
FEED_CELLS = 1 << 23
"""Rows, and loads, that a forecaster is shown at once at most."""
T = TypeVar("T", bound=np.generic)


@dataclass(frozen=True, eq=False)
class Answer:
    """What came back at one origin: a checked forecast, or the reason why there is none."""

    origin: int
    forecast: Forecast | None
    failure: str | None = None


class Feed:
    """A forecaster that follows one run: a trace, of which it sees the past (`at`), or steps as they come (`rows`).

    ``host``: where it lives. ``gone``: why it cannot go on, None while it can. An error in `observe` ends it, and so
    does a process that is gone; what it raises in `forecast` does not.
    """

    def __init__(self, host: Host, trace: Trace | None = None) -> None:
        self.host = host
        self.gone: ForecastError | None = None
        self._trace = trace
        self._fed = 0

    def __enter__(self) -> Feed:
        return self

    def __exit__(self, *_: object) -> None:
        self.host.stop()

    def rows(self, block: StepBlock) -> None:
        """Show newly completed steps."""
        try:
            self.host.observe(block)
        except ForecastError as error:
            self.gone = error
            raise

    def ask(self, request: ForecastRequest) -> Forecast:
        """Ask what comes next."""
        try:
            return self.host.forecast(request)
        except IsolationError as error:
            self.gone = error
            raise

    def at(self, step: int, horizons: Sequence[int], quantiles: Sequence[float] = ()) -> Forecast:
        """Show exactly the rows of the trace before ``step`` and ask there; steps must not fall.

        Raises `ForecastError` for a forecast that failed. Once the forecaster is ``gone``, every call raises why.
        """
        assert self._trace is not None, "without a trace, `rows` shows the steps"
        if self.gone is not None:
            raise self.gone
        row = row_of(self._trace, step)
        if row < self._fed:
            raise MoeloadError(f"asked at step {step} after later steps were shown, expected steps that do not fall")
        cells = self._trace.num_layers * self._trace.num_experts
        most = min(FEED_ROWS, max(1, FEED_CELLS // cells))
        for start in range(self._fed, row, most):
            self.rows(self._trace.rows(start, min(start + most, row)))
        self._fed = row
        return self.ask(make_request(self._trace, row, horizons, quantiles))

    def answers(
        self, origins: Sequence[int], horizons: Sequence[int], quantiles: Sequence[float] = ()
    ) -> Iterator[Answer]:
        """Yield one `Answer` per origin, ascending; origins are training steps of the trace.

        A forecaster that raises in `forecast` fails that task only; one that is ``gone`` fails this and all later ones.
        """
        for origin in sorted(origins):
            try:
                answer = Answer(origin, self.at(origin, horizons, quantiles))
            except ForecastError as error:
                answer = Answer(origin, None, str(error))
            yield answer


def follow(
    target: Target,
    run: Trace | TraceInfo,
    *,
    seed: int,
    group: int = 0,
    fitted: bytes | None = None,
    level: Level = "process",
    limits: Limits | None = None,
    numba_cache: Path | None = None,
) -> Feed:
    """Construct a forecaster to follow a run: a trace, or one of which there is no trace yet.

    ``group`` is the trace's, see `TraceInfo`. The `Feed` is a context manager, which leaves nothing of the forecaster
    behind. Raises as `open_host`.
    """
    trace, info = (None, run) if isinstance(run, TraceInfo) else (run, trace_info(run, group))
    host = open_host(target, info, seed=seed, fitted=fitted, level=level, limits=limits, numba_cache=numba_cache)
    return Feed(host, trace)


def row_of(trace: Trace, origin: int) -> int:
    """Return the row of a step that the trace has."""
    return (origin - trace.first_step) // trace.meta.stride


def window_rows(trace: Trace, row: int, horizon: int) -> slice:
    """Return the rows of the steps origin .. origin + horizon - 1."""
    return slice(row, row + -(-horizon // trace.meta.stride))


def make_request(trace: Trace, row: int, horizons: Sequence[int], quantiles: Sequence[float] = ()) -> ForecastRequest:
    """Return the question at a row, with the plan of learning rate and data stage that an engineer would know.

    There is none where the trace ends before the window does.
    """
    horizon = max(horizons)
    return ForecastRequest(
        origin=trace.first_step + row * trace.meta.stride,
        horizon=horizon,
        horizons=tuple(sorted(horizons)),
        quantiles=tuple(quantiles),
        lr_H=_planned(trace, "lr", row, horizon, np.float64),
        stage_H=_planned(trace, "stage", row, horizon, np.int64),
    )


def _planned(trace: Trace, column: str, row: int, horizon: int, dtype: type[T]) -> NDArray[T] | None:
    rows = window_rows(trace, row, horizon)
    planned = trace.columns.get(column)
    if planned is None or rows.stop > trace.steps:
        return None
    return np.repeat(planned[rows].astype(dtype), trace.meta.stride)[:horizon]

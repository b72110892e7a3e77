"""The replay loop: feed what has happened, ask at each origin, never show the future.

The harness owns the data and the clock. A forecaster behind a `Host` gets blocks of completed steps and requests;
the answers come out one origin at a time, so that memory stays bounded by one window.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from moeload_bench.forecaster import StepBlock, TraceInfo

if TYPE_CHECKING:
    from moeload_bench.traces.trace import Trace

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from moeload_bench.errors import ForecastError, IsolationError
from moeload_bench.forecaster import Forecast, ForecastRequest
from moeload_bench.isolation.hosts import Host
from moeload_bench.traces.trace import Trace

FEED_ROWS = 2048
T = TypeVar("T", bound=np.generic)


@dataclass(frozen=True, eq=False)
class Answer:
    """What came back at one origin: a checked forecast, or the reason why there is none."""

    origin: int
    row: int
    forecast: Forecast | None
    failure: str | None = None


def replay(
    trace: Trace, host: Host, origins: Sequence[int], horizons: Sequence[int], quantiles: Sequence[float] = ()
) -> Iterator[Answer]:
    """Yield one `Answer` per origin, ascending.

    ``origins`` are training steps, each a row of the trace. Before origin o the host has observed exactly the rows
    with step < o. A forecaster that raises in `forecast` fails that task only; one that raises in `observe`, or whose
    process is gone, fails this and all later tasks, each by name.
    """
    fed, gone = 0, None
    for origin in sorted(origins):
        row = row_of(trace, origin)
        if gone is None:
            gone = _feed(trace, host, fed, row)
            fed = row
        if gone is not None:
            yield Answer(origin, row, None, gone)
            continue
        request = make_request(trace, row, horizons, quantiles)
        try:
            yield Answer(origin, row, host.forecast(request))
        except IsolationError as error:
            gone = str(error)
            yield Answer(origin, row, None, gone)
        except ForecastError as error:
            yield Answer(origin, row, None, str(error))


def _feed(trace: Trace, host: Host, start: int, stop: int) -> str | None:
    try:
        for at in range(start, stop, FEED_ROWS):
            host.observe(step_block(trace, at, min(at + FEED_ROWS, stop)))
    except ForecastError as error:
        return str(error)
    return None


def row_of(trace: Trace, origin: int) -> int:
    """The row of a step that the trace has."""
    return (origin - int(trace.step_S[0])) // trace.meta.stride


def window_rows(trace: Trace, row: int, horizon: int) -> slice:
    """The rows of the steps origin .. origin + horizon - 1."""
    return slice(row, row + -(-horizon // trace.meta.stride))


def make_request(trace: Trace, row: int, horizons: Sequence[int], quantiles: Sequence[float] = ()) -> ForecastRequest:
    """The question at a row, with the plan of learning rate and data stage that an engineer would know."""
    horizon = max(horizons)
    return ForecastRequest(
        origin=int(trace.step_S[row]),
        horizon=horizon,
        horizons=tuple(sorted(horizons)),
        quantiles=tuple(quantiles),
        lr_H=_planned(trace, "lr", row, horizon, np.float64),
        stage_H=_planned(trace, "stage", row, horizon, np.int64),
    )


def _planned(trace: Trace, column: str, row: int, horizon: int, dtype: type[T]) -> NDArray[T] | None:
    if column not in trace.columns:
        return None
    planned = trace.columns[column][window_rows(trace, row, horizon)].astype(dtype)
    return np.repeat(planned, trace.meta.stride)[:horizon]


class ForecastDigest:
    """A running hash of forecasts, so that two runs can be told to have forecast the same."""

    def __init__(self) -> None:
        self._digest = hashlib.sha256()

    def update(self, answer: Answer) -> None:
        """Take in one answer; a failed one counts as such."""
        self._digest.update(str(answer.origin).encode())
        forecast = answer.forecast
        if forecast is None:
            self._digest.update(b"failed")
            return
        for array in (forecast.share_BLE, forecast.edges_B, forecast.quantile_QKLE):
            if array is not None:
                little = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<"))
                self._digest.update(str(little.shape).encode() + little.tobytes())

    def hexdigest(self) -> str:
        return self._digest.hexdigest()


def trace_info(trace: Trace, group: int = 0) -> TraceInfo:
    """What a forecaster may know of a trace."""
    meta = trace.meta
    return TraceInfo(
        num_layers=trace.num_layers,
        num_experts=trace.num_experts,
        top_k=meta.top_k,
        layer_indices=tuple(layer.index for layer in meta.layers),
        batch_tokens=meta.global_batch_tokens,
        stride=meta.stride,
        balancing=meta.balancing.method,
        balancing_coefficient=meta.balancing.coefficient,
        group=group,
    )


def step_block(trace: Trace, start: int, stop: int) -> StepBlock:
    """Rows start .. stop-1 of a trace as a forecaster sees them (views, not copies)."""
    rows = slice(start, stop)
    covariates = {name: column[rows] for name, column in trace.columns.items()}
    return StepBlock(trace.step_S[rows], trace.load_SLE[rows], trace.tokens_SL[rows], covariates)

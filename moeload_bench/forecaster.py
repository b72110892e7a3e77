"""The contract between the harness and a forecaster.

A forecaster is any class with ``observe`` and ``forecast``; it is constructed as
``Class(info, seed, fitted=..., **kwargs)`` (``fitted`` only where it has ``fit``). It gets arrays, never a path, a
name, a label or the future.

Axis letters: S steps, L MoE layers, E experts, H horizon, B blocks, Q quantiles, K suite horizons.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from moeload_bench.arrays import Array, IntArray
from moeload_bench.errors import ForecastError

SUM_TOLERANCE = 1e-6
FORECAST_RULES = ("shape", "finite", "non_negative", "sums", "quantiles")


@dataclass(frozen=True)
class TraceInfo:
    """What a forecaster may know about the run it follows.

    ``group`` is an opaque number shared by runs of one recipe; ``batch_tokens`` tokens of one training step, None
    when the trace does not say; ``stride`` training steps between two observed rows.
    """

    num_layers: int
    num_experts: int
    top_k: int | None
    layer_indices: tuple[int, ...]
    batch_tokens: int | None
    stride: int
    balancing: str
    balancing_coefficient: float
    group: int


@dataclass(frozen=True, eq=False)
class StepBlock:
    """Newly completed steps, in order.

    ``step_S`` int64, ``load_SLE`` int64, ``tokens_SL`` int64; ``covariates`` holds the measured optional columns of
    the trace format by name, each with the steps first.
    """

    step_S: IntArray
    load_SLE: IntArray
    tokens_SL: IntArray
    covariates: Mapping[str, Array] = field(default_factory=dict)

    def __len__(self) -> int:
        return int(self.step_S.shape[0])

    def rows(self, start: int, stop: int) -> StepBlock:
        """Return rows start .. stop-1 as views."""
        cut = slice(start, stop)
        columns = {name: column[cut] for name, column in self.covariates.items()}
        return StepBlock(self.step_S[cut], self.load_SLE[cut], self.tokens_SL[cut], columns)


def trace_info(trace: Any, group: int = 0) -> TraceInfo:
    """Return what a forecaster may know of a `Trace`, of anything with its ``meta``, or of a `TraceMeta` itself."""
    meta = getattr(trace, "meta", trace)
    return TraceInfo(
        num_layers=len(meta.layers),
        num_experts=meta.experts,
        top_k=meta.top_k,
        layer_indices=tuple(layer.index for layer in meta.layers),
        batch_tokens=meta.global_batch_tokens,
        stride=meta.stride,
        balancing=meta.balancing.method,
        balancing_coefficient=meta.balancing.coefficient,
        group=group,
    )


def step_block(trace: Any, start: int, stop: int) -> StepBlock:
    """Return rows start .. stop-1 of a `Trace`, or of anything with its arrays, as a forecaster sees them: views."""
    return StepBlock(trace.step_S, trace.load_SLE, trace.tokens_SL, trace.columns).rows(start, stop)


@dataclass(frozen=True, eq=False)
class ForecastRequest:
    """What is asked at an origin.

    Steps up to ``origin - 1`` have been observed; the forecast covers steps origin .. origin + horizon - 1.
    ``horizons`` are the suite's, ascending, the last equal to ``horizon``. ``quantiles`` are the levels wanted
    (a forecaster may leave them out). ``lr_H`` and ``stage_H`` [horizon] are the recipe's plan, None where unknown.
    """

    origin: int
    horizon: int
    horizons: tuple[int, ...]
    quantiles: tuple[float, ...] = ()
    lr_H: NDArray[np.float64] | None = None
    stage_H: NDArray[np.int64] | None = None


@dataclass(frozen=True, eq=False)
class Forecast:
    """A piecewise constant path of shares.

    ``share_BLE`` float64 [blocks, layers, experts], non-negative, each [b, l] summing to 1; ``edges_B`` int64: the
    end of each block in training steps after the origin, rising, the last one the horizon (block b covers offsets
    edges_B[b-1] .. edges_B[b]-1). ``quantile_QKLE`` optional: quantiles of the window-mean share at each suite horizon.
    """

    share_BLE: NDArray[np.float64]
    edges_B: NDArray[np.int64]
    quantile_QKLE: NDArray[np.float64] | None = None

    def window_means(self, horizons_K: Sequence[int]) -> NDArray[np.float64]:
        """Return mean share over the steps of each horizon, [K, L, E]: what a plan for that window is made from.

        Raise `ForecastError` for a horizon beyond the last block's end, and for one below 1.
        """
        if len(horizons_K) and not 1 <= min(horizons_K) <= max(horizons_K) <= self.edges_B[-1]:
            raise ForecastError(f"horizons are {list(horizons_K)}, the forecast covers 1 to {self.edges_B[-1]} steps")
        start_B = np.concatenate([[0], self.edges_B[:-1]])
        horizon_K1 = np.asarray(horizons_K, dtype=np.int64)[:, None]
        steps_KB = np.clip(np.minimum(self.edges_B, horizon_K1) - start_B, 0, None)
        return np.tensordot(steps_KB / horizon_K1, self.share_BLE, axes=1)

    @classmethod
    def constant(cls, share_LE: Any, horizon: int) -> Forecast:
        """Return one share per expert for the whole horizon."""
        share = np.asarray(share_LE, dtype=np.float64)
        return cls(share[None], np.array([horizon], dtype=np.int64))

    @classmethod
    def path(cls, share_HLE: Any) -> Forecast:
        """Return a share per step: H blocks of one step."""
        share = np.asarray(share_HLE, dtype=np.float64)
        return cls(share, np.arange(1, share.shape[0] + 1, dtype=np.int64))


@runtime_checkable
class Forecaster(Protocol):
    """What every forecaster provides.

    ``forecast`` must not change what later calls return; learning happens inside ``observe``, at fixed step
    numbers, so that the size of the blocks does not matter.
    """

    def observe(self, block: StepBlock) -> None:
        """Take in newly completed steps."""

    def forecast(self, request: ForecastRequest) -> Forecast | Array:
        """Say what comes next: a `Forecast`, or shares [L, E] for the whole horizon, or [H, L, E] for each step."""
        ...


FitRuns = Sequence[tuple[TraceInfo, StepBlock]]


@runtime_checkable
class FittedForecaster(Forecaster, Protocol):
    """A forecaster that learns once per suite from the `train` split.

    The bytes that ``fit`` returns are opaque to the harness and are handed to every constructor as ``fitted``.
    """

    @classmethod
    def fit(cls, runs: FitRuns, seed: int) -> bytes:
        """Learn from whole runs."""
        ...


def check_forecast(forecast: Any, request: ForecastRequest, info: TraceInfo) -> Forecast:
    """Return the forecast, or raise `ForecastError` saying what is wrong and which of `FORECAST_RULES` it broke.

    A plain array becomes a `Forecast` here and nowhere else. Nothing is repaired.
    """
    L, E = info.num_layers, info.num_experts
    made = forecast if isinstance(forecast, Forecast) else _from_array(forecast, request.horizon, L, E)
    share, edges = made.share_BLE, made.edges_B
    _check_array("share_BLE", share, np.float64, 3)
    _check_array("edges_B", edges, np.int64, 1)
    if share.shape[1:] != (L, E) or share.shape[0] != edges.shape[0] or not 1 <= len(edges) <= request.horizon:
        raise ForecastError(
            f"share_BLE has shape {share.shape} with {len(edges)} edges, expected [edges, {L}, {E}] with "
            f"1 to {request.horizon} edges",
            "shape",
        )
    if edges[0] < 1 or (np.diff(edges) < 1).any() or edges[-1] != request.horizon:
        raise ForecastError(
            f"edges_B must rise from at least 1 to the horizon {request.horizon}, got {edges[:5]}...", "shape"
        )
    if not np.isfinite(share).all():
        raise ForecastError(
            f"share_BLE holds {np.count_nonzero(~np.isfinite(share))} values that are not finite", "finite"
        )
    if (share < 0).any():
        raise ForecastError(f"share_BLE holds negative shares, the least is {share.min():.6g}", "non_negative")
    worst = float(np.abs(share.sum(axis=2) - 1).max())
    if worst > SUM_TOLERANCE:
        raise ForecastError(f"shares of a layer sum to 1 +- {worst:.3g}, expected 1 within {SUM_TOLERANCE:g}", "sums")
    if made.quantile_QKLE is not None:
        _check_quantiles(made.quantile_QKLE, request, L, E)
    return made


def _from_array(answer: Any, H: int, L: int, E: int) -> Forecast:
    """Copy the answer, since a forecaster goes on writing to its own array."""
    expected = f"expected a Forecast, or numbers of shape [{L}, {E}] or [{H}, {L}, {E}]"
    if not isinstance(answer, np.ndarray):
        raise ForecastError(f"forecast returned {type(answer).__name__}, {expected}", "shape")
    if answer.shape not in ((L, E), (H, L, E)) or answer.dtype.kind not in "fiu":
        raise ForecastError(f"forecast returned {answer.dtype} of shape {answer.shape}, {expected}", "shape")
    share = np.array(answer, dtype=np.float64)
    return Forecast.constant(share, H) if share.ndim == 2 else Forecast.path(share)


def _check_quantiles(quantile: Any, request: ForecastRequest, L: int, E: int) -> None:
    _check_array("quantile_QKLE", quantile, np.float64, 4)
    expected = (len(request.quantiles), len(request.horizons), L, E)
    if quantile.shape != expected:
        raise ForecastError(f"quantile_QKLE has shape {quantile.shape}, expected {expected}", "quantiles")
    if not np.isfinite(quantile).all() or (quantile < 0).any() or (quantile > 1).any():
        raise ForecastError("quantile_QKLE holds values that are not shares between 0 and 1", "quantiles")
    if (np.diff(quantile, axis=0) < 0).any():
        raise ForecastError("quantile_QKLE crosses itself: a higher level has a lower share", "quantiles")


def _check_array(name: str, array: Any, dtype: Any, ndim: int) -> None:
    if not isinstance(array, np.ndarray) or array.dtype != np.dtype(dtype) or array.ndim != ndim:
        got = f"{array.dtype}, {array.ndim} axes" if isinstance(array, np.ndarray) else type(array).__name__
        raise ForecastError(f"{name} is {got}, expected a numpy array of {np.dtype(dtype)} with {ndim} axes", "shape")

"""The records of the forecaster contract as frame headers and arrays, and back. Both ends of the pipe use it."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from moeload_bench.arrays import Array
from moeload_bench.errors import TargetError
from moeload_bench.forecaster import Forecast, ForecastRequest, StepBlock, TraceInfo
from moeload_bench.isolation.frames import ArrayRule, Header, Rules
from moeload_bench.isolation.targets import FileTarget, StoredTarget, module_target

_COVARIATE = "covariate:"


def target_header(target: StoredTarget, seen: str | None = None) -> Header:
    """Return a target for the worker, which sees its file at ``seen`` if not at its own path; raise `TargetError`."""
    try:
        json.dumps(dict(target.kwargs))
    except TypeError as error:
        raise TargetError(f"{target.text!r}: an argument cannot be handed to another process: {error}") from None
    asked = {"text": target.text, "class_name": target.class_name, "kwargs": dict(target.kwargs)}
    if isinstance(target, FileTarget):
        return {**asked, "file": seen or str(target.file)}
    return {**asked, "module": target.module}


def target_from(header: Mapping[str, Any]) -> StoredTarget:
    """Return the target as the worker loads it."""
    text, class_name, kwargs = header["text"], header["class_name"], header["kwargs"]
    if "file" in header:
        return FileTarget(text=text, file=Path(header["file"]), class_name=class_name, kwargs=kwargs)
    return module_target(text, header["module"], class_name, kwargs)


def info_header(info: TraceInfo) -> Header:
    """Return `TraceInfo` as JSON."""
    return dataclasses.asdict(info)


def info_from(header: Mapping[str, Any]) -> TraceInfo:
    """Return `TraceInfo` from JSON."""
    return TraceInfo(**{**header, "layer_indices": tuple(header["layer_indices"])})


def block_arrays(block: StepBlock) -> dict[str, Array]:
    """Return the arrays of a block by name."""
    arrays: dict[str, Array] = {"step_S": block.step_S, "load_SLE": block.load_SLE, "tokens_SL": block.tokens_SL}
    return {**arrays, **{f"{_COVARIATE}{name}": column for name, column in block.covariates.items()}}


def block_from(arrays: Mapping[str, Array]) -> StepBlock:
    """Return a block that owns its arrays."""
    covariates = {
        name.removeprefix(_COVARIATE): column for name, column in arrays.items() if name.startswith(_COVARIATE)
    }
    return StepBlock(arrays["step_S"], arrays["load_SLE"], arrays["tokens_SL"], covariates)


def request_frame(request: ForecastRequest) -> tuple[Header, dict[str, Array]]:
    """Return a request as header and arrays."""
    header = {name: getattr(request, name) for name in ("origin", "horizon", "horizons", "quantiles")}
    planned = {"lr_H": request.lr_H, "stage_H": request.stage_H}
    return header, {name: plan for name, plan in planned.items() if plan is not None}


def request_from(header: Mapping[str, Any], arrays: Mapping[str, Array]) -> ForecastRequest:
    """Return a request from header and arrays."""
    horizons, quantiles = tuple(header["horizons"]), tuple(header["quantiles"])
    planned = arrays.get("lr_H"), arrays.get("stage_H")
    return ForecastRequest(header["origin"], header["horizon"], horizons, quantiles, *planned)


def forecast_rules(request: ForecastRequest, info: TraceInfo) -> Rules:
    """Return what an answer to this request may hold: the bound on what is read from a stranger."""
    L, E = info.num_layers, info.num_experts
    quantile_axes = tuple((n, n) for n in (len(request.quantiles), len(request.horizons), L, E))
    return {
        "share_BLE": ArrayRule("<f8", ((1, request.horizon), (L, L), (E, E))),
        "edges_B": ArrayRule("<i8", ((1, request.horizon),)),
        "quantile_QKLE": ArrayRule("<f8", quantile_axes, required=False),
    }


def forecast_arrays(forecast: Forecast) -> dict[str, Array]:
    """Return the arrays of a forecast by name."""
    arrays: dict[str, Array] = {"share_BLE": forecast.share_BLE, "edges_B": forecast.edges_B}
    return arrays if forecast.quantile_QKLE is None else {**arrays, "quantile_QKLE": forecast.quantile_QKLE}


def forecast_from(arrays: Mapping[str, Array]) -> Forecast:
    """Return a forecast that has still to pass `check_forecast`."""
    return Forecast(arrays["share_BLE"], arrays["edges_B"], arrays.get("quantile_QKLE"))


def fitted_array(fitted: bytes | None) -> dict[str, Array]:
    """Return opaque bytes as an array; {} for None."""
    return {} if fitted is None else {"fitted": np.frombuffer(fitted, dtype=np.uint8)}


def fitted_rules(most: int) -> Rules:
    """Return what an answer to `fit` may hold."""
    return {"fitted": ArrayRule("|u1", ((0, most),))}


def fitted_from(arrays: Mapping[str, Array]) -> bytes | None:
    """Return the bytes of an array; None without one."""
    return arrays["fitted"].tobytes() if "fitted" in arrays else None
